"""The datastore plugin `file`."""
