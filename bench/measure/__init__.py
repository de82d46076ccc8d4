"""The measuring side of the benchmark: starts a process for each library and times all of them in turn."""
