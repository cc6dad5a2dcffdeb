//! The docker-like command line; a client of the daemon's sockets.
