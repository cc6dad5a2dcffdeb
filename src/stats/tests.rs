use super::*;

#[test]
fn a_pods_cgroup_is_known_by_its_uid() {
    let uid = "0b5a-11";
    assert!(is_the_pods_own("/husk/abc", "", ""));
    assert!(is_the_pods_own(
        "/kubepods/burstable/pod0b5a-11",
        "/kubepods/burstable/pod0b5a-11",
        uid
    ));
    let slice = "/kubepods-besteffort-pod0b5a_11.slice";
    assert!(is_the_pods_own(slice, slice, uid));
    assert!(!is_the_pods_own("/k8s.io", "/k8s.io", uid));
    assert!(!is_the_pods_own("/k8s.io", "/k8s.io", ""));
}

#[test]
fn work_is_spread_and_keeps_its_order() {
    for n in [0, 1, 63, 64, 65, 1000] {
        let items: Vec<usize> = (0..n).collect();
        assert_eq!(
            spread(&items, |i| i * 2),
            items.iter().map(|i| i * 2).collect::<Vec<_>>()
        );
    }
}

#[test]
fn sums_add_up() {
    let mut one = CgroupStats::default();
    one.cpu.usage_nanos = 3;
    one.memory.rss = 5;
    let two = one.clone();
    let both = sum([&one, &two].into_iter());
    assert_eq!((both.cpu.usage_nanos, both.memory.rss), (6, 10));
    assert_eq!(sum(std::iter::empty()), CgroupStats::default());
}
