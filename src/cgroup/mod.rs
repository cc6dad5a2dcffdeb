//! Control groups: version 1 and 2, limits, device rules, statistics, freezing and killing.
