"""The dataplane plugin `iptables`."""
