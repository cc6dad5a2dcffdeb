//! The per-pod process: parent of the pod's processes, owner of stdio, log files and exit codes.
