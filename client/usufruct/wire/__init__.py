"""The only place where protobuf and the domain meet, and where bytes of another party are read. One file per proto."""
