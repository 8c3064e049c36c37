//! Ids that follow from numbers, shaped as in the captures (uuids by hash), and the partition of a site.

use xxhash_rust::xxh3::xxh3_128_with_seed;

/// The id of the app of this rank; 0 is the most popular.
pub fn app_id(rank: u16) -> String {
    uuid(1, u64::from(rank))
}

/// The id of the site of this number.
pub fn site_id(number: u64) -> String {
    uuid(2, number)
}

/// The id of a site's owner; three sites share one.
pub(super) fn owner_id(number: u64) -> String {
    uuid(3, number / 3)
}

/// The id of one installation on a site.
pub fn instance_id(site: u64, installation: u32) -> String {
    uuid(4 + u64::from(installation), site)
}

/// The partition of a site; any function will do that spreads and is stable.
pub(super) fn partition_of(site: u64, partitions: usize) -> i32 {
    let hash = xxh3_128_with_seed(&site.to_le_bytes(), 0) as u64;
    i32::try_from(hash % partitions as u64).expect("Kafka counts partitions with an i32")
}

fn uuid(kind: u64, number: u64) -> String {
    let hash = format!("{:032x}", xxh3_128_with_seed(&number.to_le_bytes(), kind));
    format!("{}-{}-5{}-a{}-{}", &hash[..8], &hash[8..12], &hash[13..16], &hash[17..20], &hash[20..32])
}
