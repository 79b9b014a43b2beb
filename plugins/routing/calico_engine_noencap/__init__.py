"""The routing plugin `noencap`."""
