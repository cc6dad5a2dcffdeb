//! Traffic counters of a pod's interfaces.

use std::fs;

use super::request::InterfaceCounters;
use super::{Network, netns};
use crate::types::error::Context;
use crate::types::{PodId, Result};

impl Network {
    /// Counters of all interfaces but loopback, for each of `pods` in turn. Blocks for some 20 microseconds for each.
    ///
    /// # Errors
    /// No thread can be started. Of a pod that has no namespace, or none any more, the result is an error of its own.
    pub fn counters(&self, pods: &[PodId]) -> Result<Vec<Result<Vec<InterfaceCounters>>>> {
        let paths: Vec<_> = pods.iter().map(|pod| self.netns_path(pod)).collect();
        let tables = netns::visit(&paths, || fs::read_to_string("/proc/thread-self/net/dev"))?;
        let read =
            |table: Result<std::io::Result<String>>| Ok(parse(&table?.context("read interface counters")?));
        Ok(tables.into_iter().map(read).collect())
    }
}

/// `/proc/net/dev`: two lines of headings, then eight numbers each for receive and send.
fn parse(table: &str) -> Vec<InterfaceCounters> {
    table
        .lines()
        .skip(2)
        .filter_map(parse_line)
        .filter(|counters| counters.name != "lo")
        .collect()
}

fn parse_line(line: &str) -> Option<InterfaceCounters> {
    let (name, numbers) = line.split_once(':')?;
    let numbers: Vec<u64> = numbers
        .split_ascii_whitespace()
        .map_while(|n| n.parse().ok())
        .collect();
    let [
        rx_bytes,
        rx_packets,
        rx_errors,
        rx_dropped,
        _,
        _,
        _,
        _,
        tx_bytes,
        tx_packets,
        tx_errors,
        tx_dropped,
        ..,
    ] = numbers[..]
    else {
        return None;
    };
    Some(InterfaceCounters {
        name: name.trim().to_owned(),
        rx_bytes,
        rx_packets,
        rx_errors,
        rx_dropped,
        tx_bytes,
        tx_packets,
        tx_errors,
        tx_dropped,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_table_is_read_and_odd_lines_are_not() {
        let table = "Inter-|   Receive\n face |bytes\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  \
                     eth0: 10 2 3 4 0 0 0 0 50 6 7 8 0 0 0 0\nodd\n x: 1 2\n";
        let found = parse(table);
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].name.as_str(), found[0].rx_bytes, found[0].tx_dropped),
            ("eth0", 10, 8)
        );
    }
}
