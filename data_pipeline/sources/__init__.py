"""Where text comes from: finding, fetching and reading sources."""
