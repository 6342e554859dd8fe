"""The benchmark: this server beside its peers, over one upstream, in one run. `make bench`."""
