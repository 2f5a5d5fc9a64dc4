"""Public data sets as they are found: described in one YAML file each, read in any known layout."""
