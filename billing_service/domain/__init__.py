"""The pure core: standard library only; no clock, no I/O, no await, no protobuf. `now` and ids are arguments."""
