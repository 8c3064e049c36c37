//! `writer position set`: moves a partition to an offset of the log.

use super::{Refused, SetArgs, View, by};
use crate::{
    config::Config,
    ends::Ends,
    position::{self, Topic},
    store::{Audit, Operation, PositionRow},
    topic_id::{self, TopicId},
};

/// Moves the position and answers with the new row. What the view holds is not undone: going back applies records again,
/// which the source positions of the rows guard; going forward leaves out what lies between.
pub async fn run(config: &Config, args: &SetArgs) -> anyhow::Result<()> {
    let topic = Topic::ask(config).await?;
    let ends = topic.partition(&config.topic, args.partition)?;
    in_the_log(args, ends)?;
    let mut view = View::open(config).await?;
    let (by, arguments) = (by(), format!("--partition {} --to {}", args.partition, args.to));
    let audit = Audit { action: "position set", arguments: &arguments, reason: &args.why.reason, by: &by };
    let mut operation = Operation::begin(&mut view.connection, view.generation, &config.topic).await?;
    let row = operation.lock(Some(&[args.partition])).await?.pop();
    if !row.is_some_and(|row| is_there(&row, args.to, topic.topic_id.as_ref())) {
        operation.set(args.partition, args.to, &by, topic.topic_id.as_ref()).await?;
        operation.commit(audit).await?;
    } else {
        drop(operation);
    }
    position::print_row(&view.line(config, args.partition, &topic).await?, config.json)
}

fn in_the_log(args: &SetArgs, ends: Ends) -> Result<(), Refused> {
    if ends.hold(args.to) {
        return Ok(());
    }
    Err(Refused(format!(
        "--to {}: partition {} holds the offsets {} to {} ({} is its end); choose one of these",
        args.to, args.partition, ends.low, ends.high, ends.high
    )))
}

fn is_there(row: &PositionRow, to: i64, topic_id: Option<&TopicId>) -> bool {
    row.next_offset == to && row.blocked_state.is_none() && !topic_id::differ(row.topic_id.as_deref(), topic_id)
}
