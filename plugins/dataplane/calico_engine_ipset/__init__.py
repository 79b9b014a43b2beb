"""The dataplane plugin `ipset`."""
