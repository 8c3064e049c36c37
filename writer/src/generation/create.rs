//! `create`: number, row, schema, tables and grants in one transaction.

use sqlx::{Connection, PgConnection};

use super::{Answer, active, held, session};
use crate::{
    config::Config,
    migrate,
    store::generation::{self, Generation},
};

pub(super) async fn create(config: &Config) -> anyhow::Result<Answer> {
    let mut connection = session(config).await?;
    let generations = Generation::all(&mut connection).await?;
    // Without a mapping of its own it continues that of the generation it shall replace.
    let inherited = active(&generations).and_then(|active| active.projection.clone());
    let projection = config.projection_text.clone().or(inherited);
    if let Some(number) = begun(&mut connection, config, &generations, projection.as_deref()).await? {
        return Ok(Answer { generation: number, state: "building", changed: false, records_behind: None });
    }
    let mut transaction = connection.begin().await?;
    let number = generation::insert(&mut transaction, projection.as_deref()).await.map_err(held)?;
    migrate::make_generation(&mut transaction, number).await?;
    migrate::grant_if_roles_exist(&mut transaction, number).await?;
    let detail = serde_json::json!({"generation": number, "projection": projection});
    generation::audit(&mut transaction, "generation create", "to build the view anew", &detail).await?;
    transaction.commit().await?;
    Ok(Answer { generation: number, state: "building", changed: true, records_behind: None })
}

/// A generation that an earlier call has made and nobody has fed: its answer may have been lost.
async fn begun(
    connection: &mut PgConnection,
    config: &Config,
    generations: &[Generation],
    projection: Option<&str>,
) -> Result<Option<i32>, sqlx::Error> {
    let alike =
        |generation: &&Generation| generation.state == "building" && generation.projection.as_deref() == projection;
    for found in generations.iter().filter(alike) {
        if generation::positions(connection, found.generation, &config.topic).await?.is_empty() {
            return Ok(Some(found.generation));
        }
    }
    Ok(None)
}
