//! Which places of the built-in subnet are taken. In memory only: the pods' records are the truth on disk.

use std::collections::HashSet;

/// Hands out places (distances from the network's first address). Goes round, so that an address just released is the
/// last to be used again: the kernel takes tens of milliseconds to forget the old one.
#[derive(Debug, Default)]
pub struct Allocator {
    taken: HashSet<u32>,
    last: u32,
}

/// Place of the gateway.
pub const GATEWAY: u32 = 1;
const FIRST: u32 = GATEWAY + 1;

impl Allocator {
    /// Marks a place that a record holds.
    pub fn adopt(&mut self, index: u32) {
        self.taken.insert(index);
        self.last = self.last.max(index);
    }

    /// Takes a place in a network of `span + 1` addresses, the last of which is for broadcast. `None` if all are taken.
    pub fn take(&mut self, span: u128) -> Option<u32> {
        let end = u32::try_from(span).unwrap_or(u32::MAX);
        let places = u64::from(end).saturating_sub(u64::from(FIRST));
        let mut index = self.last;
        for _ in 0..places {
            index = index
                .checked_add(1)
                .filter(|next| (FIRST..end).contains(next))
                .unwrap_or(FIRST);
            if self.taken.insert(index) {
                self.last = index;
                return Some(index);
            }
        }
        None
    }

    /// Gives a place back. Idempotent.
    pub fn release(&mut self, index: u32) {
        self.taken.remove(&index);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn all_places_are_used_once_and_then_none() {
        let mut allocator = Allocator::default();
        let places: Vec<u32> = std::iter::from_fn(|| allocator.take(15)).collect();
        assert_eq!(places, (2..15).collect::<Vec<_>>());
        allocator.release(7);
        assert_eq!(allocator.take(15), Some(7));
        assert_eq!(allocator.take(15), None);
    }

    #[test]
    fn a_released_place_rests_before_it_is_used_again() {
        let mut allocator = Allocator::default();
        assert_eq!(allocator.take(255), Some(2));
        allocator.release(2);
        assert_eq!(allocator.take(255), Some(3));
    }

    #[test]
    fn records_are_respected_after_a_restart_even_of_a_larger_network() {
        let mut allocator = Allocator::default();
        for index in [3, 2, 4000] {
            allocator.adopt(index);
        }
        assert_eq!(allocator.take(255), Some(4));
    }

    #[test]
    fn a_network_without_room_has_no_places() {
        for span in [0, 1, 2] {
            assert_eq!(Allocator::default().take(span), None, "{span}");
        }
        assert_eq!(Allocator::default().take(3), Some(2));
    }
}
