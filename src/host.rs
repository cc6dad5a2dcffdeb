//! What this node can do, probed once and injectable in tests.
