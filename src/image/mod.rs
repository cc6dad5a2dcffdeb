//! Images: references, registries, layers, root filesystems and the store that ties them together.
