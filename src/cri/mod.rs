//! The CRI services: one file per call, conversion between protobuf and `types`, errors to gRPC codes. No logic.
