"""The gRPC face: thin servicers, conversion, errors to status, interceptors, server."""
