//! Pods and containers: lifecycle, index, supervisors, recovery.
