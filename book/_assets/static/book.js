// Excerpts under search results need the pages to be fetched, which browsers forbid in a folder on disk: leave them out there.
if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
