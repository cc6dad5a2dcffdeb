//! Seccomp profiles and their compiler to BPF.
