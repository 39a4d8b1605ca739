"""The campaign of `make soak`: kills, fuzz, full disks, two of everything at once; no part of `make test`."""
