"""A cluster on one machine: nodes and pods as network namespaces, one engine process per node.

For users (`calico-engine lab`) and for tests. Everything lives in namespaces of one holder process, so nothing of the
machine's own network is touched, and killing that process removes it all. docs: README, "The lab".
"""
