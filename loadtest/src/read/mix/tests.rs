use std::collections::BTreeMap;

use super::*;

fn wanted(mix: &str) -> Wanted {
    let mix = mix.parse().unwrap();
    Wanted { mix, keys: Keys::Zipf, sites: 1_000, unknown_percent: 10, tagged_percent: 30, batch_sites: 7, seed: 5 }
}

fn draw(wanted: Wanted, count: usize) -> Vec<Ask> {
    let mut asks = Asks::new(wanted);
    (0..count).map(|_| asks.draw()).collect()
}

#[test]
fn a_mix_is_shares_that_are_together_a_hundred() {
    let mix: Mix = "site=80,count=15,batch=5".parse().unwrap();
    assert_eq!(mix.to_string(), "site=80,batch=5,count=15");
    assert_eq!(
        [0, 79, 80, 84, 85, 99].map(|place| mix.at(place).name()),
        ["site", "site", "batch", "batch", "count", "count"]
    );
    for bad in ["", "site", "site=99", "site=100,batch=1", "page=100", "site=x", "site=-1,count=101"] {
        assert!(bad.parse::<Mix>().is_err(), "{bad}");
    }
}

#[test]
fn the_seed_decides_and_the_shares_are_those_asked_for() {
    let asks = draw(wanted("site=60,batch=10,sites=10,count=10,instance=10"), 10_000);
    assert_eq!(asks, draw(wanted("site=60,batch=10,sites=10,count=10,instance=10"), 10_000));
    assert_ne!(asks, draw(Wanted { seed: 6, ..wanted("site=60,batch=10,sites=10,count=10,instance=10") }, 10_000));
    for (path, expected) in Path::ALL.into_iter().zip([6_000_usize, 1_000, 1_000, 1_000, 1_000]) {
        let found = asks.iter().filter(|ask| ask.path() == path).count();
        assert!(found.abs_diff(expected) < 300, "{}: {found}", path.name());
    }
    let asks = draw(wanted("site=100"), 10_000);
    let unknown = asks.iter().filter(|ask| matches!(ask, Ask::Site { site: 1_000.., .. })).count();
    let tagged = asks.iter().filter(|ask| matches!(ask, Ask::Site { knows_tag: true, .. })).count();
    assert!(unknown.abs_diff(1_000) < 200 && tagged.abs_diff(3_000) < 300, "{unknown} {tagged}");
    assert!(draw(wanted("batch=100"), 9).iter().all(|ask| matches!(ask, Ask::Batch(sites) if sites.len() == 7)));
}

/// The n-th most popular site is asked for about 1/n as often as the first, and neighbours in rank are none in the table.
#[test]
fn zipf_keys_are_popular_by_rank_and_scattered_over_the_table() {
    let asks = Asks::new(Wanted { unknown_percent: 0, ..wanted("site=100") });
    let (stride, mut seen) = (asks.stride, BTreeMap::<u64, u32>::new());
    for ask in draw(asks.wanted, 100_000) {
        let Ask::Site { site, .. } = ask else { panic!("only sites are asked for") };
        *seen.entry(site).or_default() += 1;
    }
    let of_rank = |rank: u64| f64::from(seen[&(rank * stride % 1_000)]);
    // By the integral of 1/x, the share of rank n is ln((n + 2) / (n + 1)) / ln(1001).
    for rank in [0_u32, 1, 3, 9] {
        let share = ((f64::from(rank) + 2.0) / (f64::from(rank) + 1.0)).ln() / 1001_f64.ln();
        let found = of_rank(u64::from(rank)) / 100_000.0;
        assert!((found / share - 1.0).abs() < 0.1, "rank {rank}: {found} for {share}");
    }
    assert!(seen.len() > 950 && stride > 500, "every site has its rank: {} seen, stride {stride}", seen.len());
}
