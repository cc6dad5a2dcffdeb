//! Runs a launch plan between clone3 and execve: namespaces, rootfs, mounts, devices, user, capabilities, seccomp.
