"""What a user calls on a folder of images: cells by chapter 02, trained networks by chapter 05."""
