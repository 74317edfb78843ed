//! What the tests of this crate share.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hookline_model::ids::Position;
use hookline_model::wire;

use crate::AttemptLine;
use crate::store::Store;

#[path = "../../../tests/src/postgres.rs"]
#[expect(
    unreachable_pub,
    reason = "the whole-system tests have the same file, and there it is reached"
)]
mod postgres;

/// A PostgreSQL, as long as it is held.
pub(crate) struct Server(Arc<postgres::Postgres>);

impl Server {
    /// A store in a database of its own.
    pub(crate) fn store(&self) -> Store {
        Store::new(&self.0.database()).unwrap()
    }

    /// Two stores over one database, as two processes have them.
    pub(crate) fn stores(&self) -> [Store; 2] {
        let url = self.0.database();
        [Store::new(&url).unwrap(), Store::new(&url).unwrap()]
    }

    /// A store and somebody who only reads it.
    pub(crate) fn writer_and_reader(&self) -> (Store, Store) {
        let url = self.0.database();
        (Store::new(&url).unwrap(), Store::reader(&url).unwrap())
    }
}

/// The texts of the pages of a PDF file, as an independent reader finds them.
pub(crate) fn pdf_text(file: &[u8]) -> Vec<String> {
    let document = lopdf::Document::load_mem(file).expect("it is a PDF file");
    let pages = document.get_pages();
    let text = |number: &u32| document.extract_text(&[*number]).expect("it has text");
    pages.keys().map(text).collect()
}

/// A PostgreSQL, where it is installed.
pub(crate) fn postgres() -> Option<Server> {
    postgres::Postgres::shared().map(Server)
}

/// A store in a file of that directory, whose name must mean nothing in a URL.
pub(crate) fn sqlite(dir: &Path) -> Store {
    let store = sqlite_there(dir);
    assert!(!sqlite_file(dir).exists(), "nothing is done yet");
    store
}

/// The same, where it may be there already.
pub(crate) fn sqlite_there(dir: &Path) -> Store {
    Store::new(&format!("sqlite://{}", sqlite_file(dir).display())).unwrap()
}

fn sqlite_file(dir: &Path) -> PathBuf {
    dir.join("a #1 100%.db")
}

/// An attempt at this place, with little in it.
pub(crate) fn attempt(offset: u64, index: u32, webhook: &str) -> AttemptLine {
    let attempt = wire::Attempt {
        delivery_id: vec![1; 16].into(),
        webhook: webhook.into(),
        ..full()
    };
    AttemptLine::new(attempt, 0, Position { offset, index }, false)
}

/// An attempt at this place that says everything.
pub(crate) fn said(offset: u64) -> AttemptLine {
    AttemptLine::new(
        wire::Attempt {
            outcome: wire::Outcome::Failed.into(),
            error_class: "status".into(),
            error_detail: "it answered 500".into(),
            status: 500,
            contact: Some(wire::Contact {
                id: "7".into(),
                email: "ann@example.com".into(),
                phone: "+100".into(),
            }),
            response: Some(wire::Response {
                headers: vec![wire::Header {
                    name: "x".into(),
                    value: vec![b'a', 0xff].into(),
                }],
                body: vec![0, 0xff].into(),
                body_truncated: true,
            }),
            next: Some(wire::Next {
                kind: Some(wire::next::Kind::Retry(wire::next::Retry {
                    path_ms: vec![1000],
                    due_ms: 1_700_000_001_012,
                })),
                deactivate: false,
            }),
            ..full()
        },
        0,
        Position { offset, index: 0 },
        false,
    )
}

/// An attempt as it stands in a record.
pub(crate) fn full() -> wire::Attempt {
    wire::Attempt {
        delivery_id: vec![0xab; 16].into(),
        attempt: 1,
        project: "shop".into(),
        webhook_uid: vec![1; 16].into(),
        webhook: "crm".into(),
        event_id: "e1".into(),
        event_source: "/tests".into(),
        event_type: "order".into(),
        event_key: "key".into(),
        outcome: wire::Outcome::Delivered.into(),
        status: 200,
        started_at_ms: 1_700_000_000_000,
        duration_ms: 12,
        request: Some(wire::Request {
            method: "POST".into(),
            url: "https://crm.example.com/hooks?k=v".into(),
            headers: vec![],
            body_bytes: 3,
        }),
        ..wire::Attempt::default()
    }
}
