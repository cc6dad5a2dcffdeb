//! Pod networking: CNI plugins, the built-in bridge, host ports, network namespaces.
