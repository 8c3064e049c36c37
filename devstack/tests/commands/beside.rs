//! Two devstacks of one user that were told nothing.

use devstack::{Endpoints, postgres};

use crate::{copy_into, end, endpoints, on, up};

async fn sites(at: &Endpoints) -> i64 {
    let client = postgres::client(at.source_database_url.as_deref().unwrap()).await.unwrap();
    client.query_one("select count(*) from meta_site", &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_started_at_once_have_their_own_folders_ports_and_data() {
    let target = tempfile::tempdir().unwrap();
    let command = copy_into(target.path());
    let mut both = [(); 2].map(|()| up(on(&command), "source", &[]));
    let [first, second] = both.each_mut().map(endpoints);

    let at = |name: &str| Endpoints::read(&target.path().join(name).join("endpoints.json")).unwrap();
    let (at_first, at_second) = (at("devstack"), at("devstack-2"));
    assert!([&at_first, &at_second] == [&first, &second] || [&at_first, &at_second] == [&second, &first]);
    let client = postgres::client(first.source_database_url.as_deref().unwrap()).await.unwrap();
    let insert = "insert into meta_site (site_id, owner_id, version) values (gen_random_uuid(), gen_random_uuid(), 1)";
    client.batch_execute(insert).await.unwrap();
    assert_eq!((sites(&first).await, sites(&second).await), (1, 0));

    let [one, other] = both;
    end(one);
    assert_eq!(sites(&second).await, 0, "the other goes on");
    end(other);
}
