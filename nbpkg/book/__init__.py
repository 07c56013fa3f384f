"""The book as files: notebooks and their outputs, checks, publishing, the site."""
