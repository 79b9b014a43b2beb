"""Effects on the Linux kernel: netlink, sysctl, namespaces, programs. Nothing here decides policy."""
