use std::collections::BTreeMap;

use serde_json::Value;
use shared::envelope::{Headers, SchemaHead};
use writer::decode::{Kind, Limits, Raw, Told, decode};
use writer::projection::Projection;

use super::*;

struct NoHeaders;

impl Headers for NoHeaders {
    fn get(&self, _: &str) -> Option<&[u8]> {
        None
    }
}

fn recipe() -> Recipe {
    Recipe { events: 3_000, sites: 300, unrelated_percent: 50, keys: Keys::Zipf, site_apps: 5, partitions: 4, seed: 7 }
}

fn play(recipe: &Recipe, mut tell: impl FnMut(&Change<'_>)) -> Table {
    let told = |change: &Change<'_>| {
        tell(change);
        Ok::<_, std::convert::Infallible>(())
    };
    recipe.play(told).unwrap()
}

/// The documents that the writer's decoder and the contract's rule for `version` give.
fn decoded(form: Form) -> BTreeMap<String, String> {
    let limits = Limits { value_bytes_max: 1 << 20, site_apps_max: 100 };
    let (projection, mut encoder) = (Projection::default(), Encoder::new(form));
    let mut served: BTreeMap<String, (u128, String)> = BTreeMap::new();
    play(&recipe(), |change| {
        encoder.write(change);
        let raw = Raw { key: Some(encoder.key.as_bytes()), value: Some(encoder.value.as_bytes()), headers: NoHeaders };
        let event = decode(&raw, &projection, limits, &mut SchemaHead::default()).unwrap().unwrap();
        let Kind::Write { version: Told::Value(version), apps: Told::Value(apps), old_key: None } = event.kind else {
            panic!("every record tells the whole row")
        };
        assert_eq!(event.source_position.is_some(), form != Form::FlattenedSchema);
        let known = served.get(event.site_id.as_str()).is_some_and(|(hash, _)| *hash == apps.hash);
        if !known {
            let document = apps.document(&event.site_id, version);
            served.insert(event.site_id.as_str().to_owned(), (apps.hash, document));
        }
    });
    served.into_iter().map(|(site, (_, document))| (site, document)).collect()
}

#[test]
fn every_form_is_decoded_to_the_state_that_is_expected() {
    let table = play(&recipe(), |_| ());
    let expected: BTreeMap<String, String> =
        table.sites.iter().map(|site| (site_id(site.number), document_text(site))).collect();
    assert_eq!(expected.len(), 300);
    for site in &table.sites {
        let text: Value = serde_json::from_str(&expected[&site_id(site.number)]).unwrap();
        assert_eq!(text, document(site), "text and value are the same document");
    }
    for form in [Form::EnvelopeSchema, Form::Envelope, Form::Flattened, Form::FlattenedSchema] {
        assert_eq!(decoded(form), expected, "{form:?}");
    }
}

#[test]
fn records_weigh_what_captured_ones_do() {
    for (form, range) in [
        (Form::Envelope, 2_200..2_500),
        (Form::EnvelopeSchema, 5_900..6_500),
        (Form::Flattened, 1_700..2_200),
        (Form::FlattenedSchema, 2_600..3_300),
    ] {
        let (mut encoder, mut bytes) = (Encoder::new(form), 0);
        play(&recipe(), |change| {
            encoder.write(change);
            serde_json::from_str::<Value>(&encoder.value).unwrap();
            bytes += encoder.value.len();
        });
        assert!(range.contains(&(bytes / 3_000)), "{form:?}: {}", bytes / 3_000);
    }
}

#[test]
fn the_seed_decides_and_the_shares_are_those_asked_for() {
    let numbers = |recipe: &Recipe| {
        let mut all = Vec::new();
        play(recipe, |change| all.push((change.partition, change.lsn, change.site.clone())));
        all
    };
    let all = numbers(&recipe());
    assert_eq!(all, numbers(&recipe()));
    assert_ne!(all, numbers(&Recipe { seed: 8, ..recipe() }));
    let unrelated = all[300..].iter().filter(|(_, _, site)| site.version != site.apps_version).count();
    assert!((1_215..1_485).contains(&unrelated), "half of 2700: {unrelated}");
    let all = numbers(&Recipe { unrelated_percent: 0, ..recipe() });
    assert!(all.iter().all(|(_, _, site)| site.version == site.apps_version));
    let apps: usize = all[2_000..].iter().map(|(_, _, site)| site.apps.len()).sum();
    assert!((4_500..5_500).contains(&apps), "about 5 apps a site: {apps} on 1000");
}

#[test]
fn the_table_knows_where_the_topic_ends() {
    let (mut ends, mut last) = (vec![0; 4], vec![None; 4]);
    let table = play(&recipe(), |change| {
        ends[change.partition as usize] += 1;
        last[change.partition as usize] = Some((change.site.number, change.site.version));
    });
    assert_eq!(table.ends(), ends);
    let told: Vec<_> = table.last_sites().map(|site| Some((site.number, site.version))).collect();
    assert_eq!(told, last, "the last record of a partition is also the last of its site");
}

#[test]
fn zipf_prefers_the_first_sites_and_uniform_none() {
    let on_first_tenth = |keys| {
        let recipe = Recipe { keys, ..recipe() };
        let mut first = 0;
        play(&recipe, |change| first += usize::from(change.number >= 300 && change.site.number < 30));
        first
    };
    let (uniform, zipf) = (on_first_tenth(Keys::Uniform), on_first_tenth(Keys::Zipf));
    assert!((200..340).contains(&uniform) && zipf > 1_400, "{uniform} {zipf} of 2700");
}
