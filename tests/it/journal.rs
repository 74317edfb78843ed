//! What the rest relies on, and so both engines must do: one suite, run on each.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hookline_journal::{
    AppendError, AppendRefused, Appender, Cleanup, Journal, JournalError, ReadBudget, ReadError,
    Reader, Record, StoredRecord, TopicSpec, append_and_wait, append_when_room, read_until,
};
use hookline_tests::program::Engine;
use hookline_tests::wait::eventually;
use tokio::time::timeout;

use crate::journal::subject::Subject;

pub(crate) mod subject;

both_engines!(
    acknowledged_appends_are_read_back_in_order,
    a_reader_starts_at_any_offset,
    partitions_are_independent,
    the_end_is_linear_with_acknowledged_appends,
    an_appender_keeps_its_order_under_ten_thousand_pipelined_appends,
    two_appenders_interleave_and_each_keeps_its_order,
    headers_come_back_as_they_went,
    append_time_is_that_of_the_append,
    a_record_of_a_mebibyte_goes_through_and_a_larger_one_is_refused,
    what_does_not_exist_is_an_error,
    deleted_records_are_gone_and_reading_them_says_so,
    offsets_go_on_after_everything_was_deleted,
    a_position_beyond_the_end_says_so,
    a_waiting_reader_wakes_and_loses_nothing_when_cancelled,
    two_readers_of_one_partition_do_not_disturb_each_other,
    compaction_keeps_the_last_of_each_key_and_leaves_gaps,
    retention_by_age_moves_the_start,
    topics_are_made_once_and_described,
);

/// Generous: the machine is shared.
const SOON: Duration = Duration::from_secs(20);
const BUDGET: ReadBudget = ReadBudget::of(1 << 20);

pub(crate) fn value(text: impl Into<String>) -> Record {
    Record {
        key: None,
        value: Some(Bytes::from(text.into())),
        headers: Vec::new(),
    }
}

fn keyed(key: &str, text: Option<String>) -> Record {
    Record {
        key: Some(Bytes::from(key.to_owned())),
        value: text.map(Bytes::from),
        headers: Vec::new(),
    }
}

fn text(record: &StoredRecord) -> String {
    String::from_utf8(record.value.clone().unwrap_or_default().to_vec()).unwrap()
}

/// Appends `count` records "0", "1", … and returns their offsets.
async fn fill(appender: &dyn Appender, topic: &str, partition: u32, count: usize) -> Vec<u64> {
    let mut offsets = Vec::new();
    for n in 0..count {
        let appended = append_and_wait(appender, topic, partition, value(n.to_string())).await;
        offsets.push(appended.unwrap().offset.unwrap());
    }
    offsets
}

async fn read_to_end(
    journal: &dyn Journal,
    topic: &str,
    partition: u32,
    from: u64,
) -> Vec<StoredRecord> {
    let end = journal.end(topic, partition).await.unwrap();
    let mut reader = journal
        .reader(topic, partition, from, BUDGET)
        .await
        .unwrap();
    let mut records = Vec::new();
    let reading = read_until(&mut *reader, end, |record| records.push(record));
    timeout(SOON, reading)
        .await
        .expect("reading reaches the end")
        .unwrap();
    assert!(reader.position() >= end);
    records
}

/// Reads until a batch has records or an error comes.
async fn next_error(reader: &mut dyn Reader) -> ReadError {
    let reading = async {
        loop {
            match reader.next(10).await {
                Ok(batch) => assert!(batch.records.is_empty(), "records where none may be"),
                Err(error) => return error,
            }
        }
    };
    timeout(SOON, reading).await.expect("reading fails soon")
}

async fn acknowledged_appends_are_read_back_in_order(engine: Engine) {
    let subject = Subject::new(engine).await;
    let topic = subject.topic("ordered", 1).await;
    let appender = subject.journal.appender("test").await.unwrap();
    let records = [
        keyed("a", Some("first".into())),
        keyed("b", None),
        value("no key"),
        value(""),
    ];
    let mut offsets = Vec::new();
    for record in records.clone() {
        let appended = append_and_wait(&*appender, &topic, 0, record)
            .await
            .unwrap();
        offsets.push(appended.offset.unwrap());
    }
    assert!(offsets.is_sorted_by(|a, b| a < b), "{offsets:?}");
    let read = read_to_end(&*subject.journal, &topic, 0, 0).await;
    assert_eq!(read.iter().map(|r| r.offset).collect::<Vec<_>>(), offsets);
    for (stored, record) in read.iter().zip(&records) {
        assert_eq!(stored.key, record.key);
        assert_eq!(stored.value, record.value);
    }
}

async fn a_reader_starts_at_any_offset(engine: Engine) {
    let subject = Subject::new(engine).await;
    let topic = subject.topic("anywhere", 1).await;
    let appender = subject.journal.appender("test").await.unwrap();
    let offsets = fill(&*appender, &topic, 0, 20).await;
    for (n, from) in offsets.iter().enumerate() {
        let client = if n % 2 == 0 {
            &subject.journal
        } else {
            &subject.other
        };
        let read = read_to_end(&**client, &topic, 0, *from).await;
        let first = read.first().unwrap();
        assert_eq!((first.offset, text(first)), (*from, n.to_string()));
        assert_eq!(read.len(), 20 - n);
    }
}

async fn partitions_are_independent(engine: Engine) {
    let subject = Subject::new(engine).await;
    let topic = subject.topic("parts", 3).await;
    let appender = subject.journal.appender("test").await.unwrap();
    fill(&*appender, &topic, 0, 3).await;
    fill(&*appender, &topic, 2, 5).await;
    let count = async |p| read_to_end(&*subject.journal, &topic, p, 0).await.len();
    assert_eq!([count(0).await, count(1).await, count(2).await], [3, 0, 5]);
    assert_eq!(subject.journal.end(&topic, 1).await.unwrap(), 0);
}

async fn the_end_is_linear_with_acknowledged_appends(engine: Engine) {
    let subject = Subject::new(engine).await;
    let topic = subject.topic("linear", 1).await;
    let appender = subject.journal.appender("test").await.unwrap();
    for n in 0..50 {
        let appended = append_and_wait(&*appender, &topic, 0, value(n.to_string())).await;
        let offset = appended.unwrap().offset.unwrap();
        // Asked by somebody else, the moment after the acknowledgement.
        let end = subject.other.end(&topic, 0).await.unwrap();
        assert_eq!(end, offset + 1, "after append {n}");
    }
}

async fn an_appender_keeps_its_order_under_ten_thousand_pipelined_appends(engine: Engine) {
    const COUNT: usize = 10_000;
    let subject = Subject::new(engine).await;
    let topic = subject.topic("pipelined", 1).await;
    let appender = subject.journal.appender("test").await.unwrap();
    let (tell, told) = std::sync::mpsc::sync_channel(COUNT);
    for n in 0..COUNT {
        let tell = tell.clone();
        let done = Box::new(move |result| drop(tell.send((n, result))));
        append_when_room(&*appender, &topic, 0, value(n.to_string()), done)
            .await
            .unwrap();
    }
    let acknowledged: Vec<_> = tokio::task::spawn_blocking(move || {
        (0..COUNT)
            .map(|_| told.recv_timeout(SOON).unwrap())
            .collect()
    })
    .await
    .unwrap();
    let mut by_call: Vec<Option<u64>> = vec![None; COUNT];
    for (n, result) in acknowledged {
        by_call[n] = result.unwrap().offset;
    }
    let known: Vec<u64> = by_call.iter().flatten().copied().collect();
    assert!(
        known.len() > COUNT / 2,
        "acknowledgements say where: {}",
        known.len()
    );
    assert!(
        known.is_sorted_by(|a, b| a < b),
        "offsets in the order of the calls"
    );
    let read = read_to_end(&*subject.journal, &topic, 0, 0).await;
    assert_eq!(read.len(), COUNT);
    for (n, record) in read.iter().enumerate() {
        assert_eq!(text(record), n.to_string());
        assert!(by_call[n].is_none_or(|offset| offset == record.offset));
    }
}

async fn two_appenders_interleave_and_each_keeps_its_order(engine: Engine) {
    const EACH: usize = 500;
    let subject = Subject::new(engine).await;
    let topic = subject.topic("two", 1).await;
    let write = async |name: &'static str, journal: &Arc<dyn Journal>| {
        let appender = journal.appender(name).await.unwrap();
        let mut told = Vec::new();
        for n in 0..EACH {
            let (tell, wait) = tokio::sync::oneshot::channel();
            let record = keyed(name, Some(n.to_string()));
            let done = Box::new(move |result| drop(tell.send(result)));
            append_when_room(&*appender, &topic, 0, record, done)
                .await
                .unwrap();
            told.push(wait);
        }
        for wait in told {
            wait.await.unwrap().unwrap();
        }
    };
    tokio::join!(write("a", &subject.journal), write("b", &subject.other));
    let read = read_to_end(&*subject.journal, &topic, 0, 0).await;
    assert_eq!(read.len(), 2 * EACH);
    for name in ["a", "b"] {
        let of = read
            .iter()
            .filter(|r| r.key.as_deref() == Some(name.as_bytes()));
        let texts: Vec<_> = of.map(text).collect();
        assert_eq!(texts, (0..EACH).map(|n| n.to_string()).collect::<Vec<_>>());
    }
}

async fn headers_come_back_as_they_went(engine: Engine) {
    let subject = Subject::new(engine).await;
    let topic = subject.topic("headers", 1).await;
    let appender = subject.other.appender("test").await.unwrap();
    let headers: Vec<(String, Bytes)> = vec![
        (
            "content-type".into(),
            Bytes::from_static(b"application/json"),
        ),
        ("twice".into(), Bytes::from_static(b"1")),
        ("empty".into(), Bytes::new()),
        ("binary".into(), Bytes::from_static(&[0, 255, 10, 13])),
        ("twice".into(), Bytes::from_static(b"2")),
    ];
    let record = Record {
        headers: headers.clone(),
        ..value("x")
    };
    append_and_wait(&*appender, &topic, 0, record)
        .await
        .unwrap();
    let read = read_to_end(&*subject.other, &topic, 0, 0).await;
    assert_eq!(read[0].headers, headers);
    assert_eq!(read[0].header("twice").unwrap(), "2");
}

async fn append_time_is_that_of_the_append(engine: Engine) {
    let subject = Subject::new(engine).await;
    let topic = subject.topic("times", 1).await;
    let appender = subject.journal.appender("test").await.unwrap();
    let now = || {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        i64::try_from(since.unwrap().as_millis()).unwrap()
    };
    for _ in 0..5 {
        let before = now();
        let appended = append_and_wait(&*appender, &topic, 0, value("x"))
            .await
            .unwrap();
        let after = now();
        let at = appended.timestamp_ms.unwrap();
        assert!(
            (before - 1..=after + 1).contains(&at),
            "{before} ≤ {at} ≤ {after}"
        );
        let offset = appended.offset.unwrap();
        let read = read_to_end(&*subject.journal, &topic, 0, offset).await;
        assert_eq!(read[0].timestamp_ms, at);
    }
}

async fn a_record_of_a_mebibyte_goes_through_and_a_larger_one_is_refused(engine: Engine) {
    let subject = Subject::new(engine).await;
    let topic = subject.topic("large", 1).await;
    let appender = subject.other.appender("test").await.unwrap();
    let random: Vec<u8> = (0..1 << 20).map(|_| fastrand::u8(..)).collect();
    let bytes = Bytes::from(random);
    let record = Record {
        value: Some(bytes.clone()),
        ..Record::default()
    };
    append_and_wait(&*appender, &topic, 0, record)
        .await
        .unwrap();
    let larger: Vec<u8> = (0..3 << 20).map(|_| fastrand::u8(..)).collect();
    let record = Record {
        value: Some(Bytes::from(larger)),
        ..Record::default()
    };
    let refused = append_and_wait(&*appender, &topic, 0, record).await;
    assert!(
        matches!(refused, Err(AppendError::TooLarge { .. })),
        "{refused:?}"
    );
    // The appender goes on, without a gap.
    append_and_wait(&*appender, &topic, 0, value("after"))
        .await
        .unwrap();
    let read = read_to_end(&*subject.other, &topic, 0, 0).await;
    assert_eq!(read.len(), 2);
    assert_eq!(read[0].value.as_ref(), Some(&bytes));
    assert_eq!(text(&read[1]), "after");
}

async fn what_does_not_exist_is_an_error(engine: Engine) {
    let subject = Subject::new(engine).await;
    let topic = subject.topic("exists", 1).await;
    let missing = format!("{topic}-not");
    for (topic, partition) in [(&missing, 0), (&topic, 7)] {
        let reader = subject.other.reader(topic, partition, 0, BUDGET).await;
        assert!(reader.is_err(), "reader of {topic}[{partition}]");
        let end = subject.other.end(topic, partition).await;
        assert!(
            matches!(end, Err(JournalError::NoPartition { .. })),
            "{end:?}"
        );
        let start = subject.other.start(topic, partition).await;
        assert!(
            matches!(start, Err(JournalError::NoPartition { .. })),
            "{start:?}"
        );
    }
    let appender = subject.other.appender("test").await.unwrap();
    let refused = append_and_wait(&*appender, &topic, 7, value("x")).await;
    assert!(
        matches!(refused, Err(AppendError::NoPartition { .. })),
        "{refused:?}"
    );
    append_and_wait(&*appender, &topic, 0, value("goes on"))
        .await
        .unwrap();
}

async fn deleted_records_are_gone_and_reading_them_says_so(engine: Engine) {
    let subject = Subject::new(engine).await;
    let topic = subject.topic("deleted", 1).await;
    let appender = subject.other.appender("test").await.unwrap();
    let offsets = fill(&*appender, &topic, 0, 10).await;
    let cut = offsets[4];
    subject.other.delete_records(&topic, 0, cut).await.unwrap();
    assert_eq!(subject.other.start(&topic, 0).await.unwrap(), cut);
    assert_eq!(subject.other.end(&topic, 0).await.unwrap(), offsets[9] + 1);
    let read = read_to_end(&*subject.other, &topic, 0, cut).await;
    assert_eq!(read.len(), 6);
    let mut reader = subject
        .other
        .reader(&topic, 0, offsets[1], BUDGET)
        .await
        .unwrap();
    let error = next_error(&mut *reader).await;
    let ReadError::Deleted {
        position, start, ..
    } = error
    else {
        panic!("{error:?}");
    };
    assert_eq!((position, start), (offsets[1], cut));
    // Deleting less than is deleted changes nothing.
    subject
        .other
        .delete_records(&topic, 0, offsets[2])
        .await
        .unwrap();
    assert_eq!(subject.other.start(&topic, 0).await.unwrap(), cut);
}

async fn offsets_go_on_after_everything_was_deleted(engine: Engine) {
    let subject = Subject::new(engine).await;
    let topic = subject.topic("emptied", 1).await;
    let appender = subject.journal.appender("test").await.unwrap();
    let offsets = fill(&*appender, &topic, 0, 5).await;
    let end = offsets[4] + 1;
    subject
        .journal
        .delete_records(&topic, 0, end)
        .await
        .unwrap();
    assert_eq!(subject.journal.start(&topic, 0).await.unwrap(), end);
    assert_eq!(subject.journal.end(&topic, 0).await.unwrap(), end);
    let appended = append_and_wait(&*appender, &topic, 0, value("on"))
        .await
        .unwrap();
    assert!(appended.offset.unwrap() >= end);
    assert_eq!(
        read_to_end(&*subject.journal, &topic, 0, end).await.len(),
        1
    );
}

async fn a_position_beyond_the_end_says_so(engine: Engine) {
    let subject = Subject::new(engine).await;
    let topic = subject.topic("beyond", 1).await;
    let appender = subject.other.appender("test").await.unwrap();
    let offsets = fill(&*appender, &topic, 0, 3).await;
    let beyond = offsets[2] + 100;
    let mut reader = subject
        .other
        .reader(&topic, 0, beyond, BUDGET)
        .await
        .unwrap();
    let error = next_error(&mut *reader).await;
    let ReadError::BeyondEnd { position, end, .. } = error else {
        panic!("{error:?}");
    };
    assert_eq!((position, end), (beyond, offsets[2] + 1));
}

async fn a_waiting_reader_wakes_and_loses_nothing_when_cancelled(engine: Engine) {
    let subject = Subject::new(engine).await;
    let topic = subject.topic("wakes", 1).await;
    let appender = subject.other.appender("test").await.unwrap();
    let mut reader = subject.other.reader(&topic, 0, 0, BUDGET).await.unwrap();
    assert_eq!(reader.position(), 0);
    let mut seen = Vec::new();
    for n in 0..30 {
        let (tell, told) = tokio::sync::oneshot::channel();
        let done = Box::new(move |result| drop(tell.send(result)));
        let appended = appender.append(&topic, 0, value(n.to_string()), done);
        assert!(appended.is_ok(), "there is room for one record");
        // `next` is dropped half-way again and again: by the acknowledgement that comes first, and by a short wait.
        tokio::select! {
            batch = reader.next(10) => seen.extend(batch.unwrap().records.iter().map(text)),
            acknowledged = told => { acknowledged.unwrap().unwrap(); }
        }
        let short = timeout(Duration::from_micros(200 * n), reader.next(10)).await;
        if let Ok(batch) = short {
            seen.extend(batch.unwrap().records.iter().map(text));
        }
    }
    append_and_wait(&*appender, &topic, 0, value("last"))
        .await
        .unwrap();
    let rest = async {
        while seen.last().is_none_or(|s| s != "last") {
            seen.extend(reader.next(10).await.unwrap().records.iter().map(text));
        }
    };
    timeout(SOON, rest).await.expect("the reader wakes");
    let expected: Vec<_> = (0..30)
        .map(|n| n.to_string())
        .chain(["last".to_owned()])
        .collect();
    assert_eq!(seen, expected);
    assert_eq!(
        reader.position(),
        subject.other.end(&topic, 0).await.unwrap()
    );
}

async fn two_readers_of_one_partition_do_not_disturb_each_other(engine: Engine) {
    let subject = Subject::new(engine).await;
    let topic = subject.topic("readers", 1).await;
    let appender = subject.journal.appender("test").await.unwrap();
    let offsets = fill(&*appender, &topic, 0, 200).await;
    let mut first = subject.journal.reader(&topic, 0, 0, BUDGET).await.unwrap();
    let batch = timeout(SOON, first.next(5)).await.unwrap().unwrap();
    assert!(batch.records.len() <= 5, "no more than asked for");
    let all = read_to_end(&*subject.journal, &topic, 0, offsets[100]).await;
    assert_eq!(all.len(), 100);
    let mut seen: Vec<_> = batch.records.iter().map(text).collect();
    while seen.len() < 200 {
        let batch = timeout(SOON, first.next(50)).await.unwrap().unwrap();
        seen.extend(batch.records.iter().map(text));
    }
    assert_eq!(seen, (0..200).map(|n| n.to_string()).collect::<Vec<_>>());
}

async fn compaction_keeps_the_last_of_each_key_and_leaves_gaps(engine: Engine) {
    let subject = Subject::new(engine).await;
    let topic = subject.compacted_topic("compacted").await;
    let appender = subject.journal.appender("test").await.unwrap();
    for round in 0..20 {
        for key in ["a", "b", "gone"] {
            let body = Some(format!("{key}{round}"));
            append_and_wait(&*appender, &topic, 0, keyed(key, body))
                .await
                .unwrap();
        }
    }
    append_and_wait(&*appender, &topic, 0, keyed("gone", None))
        .await
        .unwrap();
    let end = subject.journal.end(&topic, 0).await.unwrap();
    let compacted = async || {
        subject.compact(&topic).await;
        let records = read_to_end(&*subject.journal, &topic, 0, 0).await;
        if records.len() > 20 {
            Err(records.len())
        } else {
            Ok(())
        }
    };
    eventually("the log is compacted", Duration::from_secs(60), compacted).await;
    let records = read_to_end(&*subject.journal, &topic, 0, 0).await;
    let mut last: BTreeMap<Bytes, Option<Bytes>> = BTreeMap::new();
    for record in &records {
        last.insert(record.key.clone().unwrap(), record.value.clone());
    }
    assert_eq!(last[b"a".as_slice()].as_deref(), Some(b"a19".as_slice()));
    assert_eq!(last[b"b".as_slice()].as_deref(), Some(b"b19".as_slice()));
    assert_eq!(last.get(b"gone".as_slice()).cloned().flatten(), None);
    // What is left stands where it stood, and a reader goes over the gaps.
    let left = records
        .iter()
        .find(|r| r.value.as_deref() == Some(b"b19"))
        .unwrap();
    assert_eq!(left.offset, 58);
    assert!(
        subject.journal.end(&topic, 0).await.unwrap() >= end,
        "the end never steps back"
    );
}

async fn retention_by_age_moves_the_start(engine: Engine) {
    let subject = Subject::new(engine).await;
    let topic = subject.short_lived_topic("aged").await;
    let appender = subject.journal.appender("test").await.unwrap();
    let offsets = fill(&*appender, &topic, 0, 10).await;
    let gone = async || {
        subject.retain().await;
        let start = subject.journal.start(&topic, 0).await.unwrap();
        if start > offsets[9] {
            Ok(())
        } else {
            Err(start)
        }
    };
    eventually("old records go", Duration::from_secs(60), gone).await;
    assert_eq!(
        subject.journal.end(&topic, 0).await.unwrap(),
        offsets[9] + 1
    );
    let mut reader = subject.journal.reader(&topic, 0, 0, BUDGET).await.unwrap();
    let error = next_error(&mut *reader).await;
    assert!(matches!(error, ReadError::Deleted { .. }), "{error:?}");
    let appended = append_and_wait(&*appender, &topic, 0, value("new"))
        .await
        .unwrap();
    assert_eq!(appended.offset, Some(offsets[9] + 1));
}

async fn topics_are_made_once_and_described(engine: Engine) {
    let subject = Subject::new(engine).await;
    let topic = subject.topic("described", 3).await;
    let again = TopicSpec {
        partitions: 5,
        ..subject.spec(&topic, 5)
    };
    subject.journal.create_topics(&[again]).await.unwrap();
    let topics = subject.other.topics().await.unwrap();
    let info = &topics[&topic];
    assert_eq!(info.partitions, 3, "an existing topic is left as it is");
    let setting = |name: &str| info.settings.get(name).map(String::as_str);
    assert_eq!(setting("cleanup.policy"), Some("delete"));
    assert_eq!(setting("retention.ms"), Some("-1"));
    assert_eq!(setting("message.timestamp.type"), Some("LogAppendTime"));
    // An engine may add what it needs around a record.
    let bytes: usize = setting("max.message.bytes").unwrap().parse().unwrap();
    assert!((2 << 20..3 << 20).contains(&bytes), "{bytes}");
    assert!(subject.journal.healthy().await);
}

/// A refusal can be matched on; the compiler checks that it stays so.
#[expect(dead_code, reason = "compiled, not run")]
fn refusals_give_everything_back(refused: AppendRefused) -> Option<Record> {
    match refused {
        AppendRefused::Full { record, .. } => Some(*record),
        AppendRefused::Failed(_) => None,
    }
}

pub(crate) fn spec(name: &str, partitions: u32, cleanup: Cleanup) -> TopicSpec {
    TopicSpec {
        name: name.to_owned(),
        partitions,
        replication: 1,
        cleanup,
        append_time: true,
        max_record_bytes: 2 << 20,
        settings: BTreeMap::new(),
    }
}
