//! Pure: CRI or husk configuration + image configuration + host -> OCI runtime spec -> launch plan.
