//! Catalogs of projects: written one by one, loaded from presets, and left as customers made them.

use std::sync::Arc;

use hookline_journal::Journal;
use hookline_model::ids::Slug;
use hookline_model::presets::Preset;
use hookline_model::resource::{EventTypeSpec, ProjectSpec, Resource, parse_documents};

use crate::testing::{MemoryJournal, TestClock, Weather};
use crate::*;

const KEY: &str = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwg=";

async fn open(journal: &MemoryJournal) -> Registry {
    let kek = Kek::from_base64(KEY).expect("a key");
    let journal: Arc<dyn Journal> = Arc::new(journal.clone());
    let clock = Arc::new(TestClock::default());
    let config = RegistryConfig::new("hookline.");
    let registry = Registry::open(journal, config, clock, Sealer::new(&kek)).await;
    registry.expect("opens")
}

fn shop() -> Slug {
    Slug::new("shop").expect("slug")
}

fn project(preset: Option<Preset>) -> ProjectSpec {
    ProjectSpec {
        title: "Shop".into(),
        preset,
        ..ProjectSpec::new(shop())
    }
}

fn event_type(more: &str) -> EventTypeSpec {
    let text = format!("kind: EventType\nproject: shop\n{more}");
    match parse_documents(&text).expect("valid").pop() {
        Some(Resource::EventType(spec)) => *spec,
        other => unreachable!("{other:?}"),
    }
}

fn names(snapshot: &Snapshot) -> Vec<&str> {
    let all = snapshot.event_types("shop");
    all.map(|entry| &*entry.settings.name).collect()
}

const SMS: [&str; 4] = [
    "sms.delivery_receipt",
    "sms.reply",
    "url.click",
    "url.preview",
];

#[tokio::test(start_paused = true)]
async fn an_event_type_is_written_changed_left_alone_and_deleted() {
    let journal = MemoryJournal::new();
    let (a, b) = (open(&journal).await, open(&journal).await);
    let paid = event_type("name: order.paid\ntitle: Paid\nschema: {type: object}");
    let none = a.put_event_type(&paid, false, None).await;
    assert!(matches!(none, Err(WriteError::NotFound { .. })), "{none:?}");
    let made = a.put_event_type(&paid, true, None).await.expect("made");
    assert!(made.created && made.written.changed);
    assert_eq!(
        (made.event_type.version, &made.event_type.settings),
        (1, &paid)
    );

    let seen = b.refresh().await.expect("refresh");
    assert!(seen.project("shop").is_some(), "the project was made");
    let entry = seen.event_type("shop", "order.paid").expect("there");
    assert_eq!((entry.version, &entry.settings), (1, &paid));
    assert!(seen.event_type("other", "order.paid").is_none());

    let before = journal.appended();
    let same = b.put_event_type(&paid, true, None).await.expect("same");
    assert!(!same.created && !same.written.changed);
    assert_eq!(journal.appended(), before, "nothing was written");
    let changed = event_type("name: order.paid\ntitle: Money came\narchived: true");
    let stale = b.put_event_type(&changed, true, Some(7)).await;
    assert!(
        matches!(stale, Err(WriteError::Conflict { .. })),
        "{stale:?}"
    );
    let done = b
        .put_event_type(&changed, true, Some(1))
        .await
        .expect("changed");
    assert!(!done.created && done.written.version == 2);

    a.delete_event_type("shop", "order.paid", Some(2))
        .await
        .expect("deleted");
    let gone = a.delete_event_type("shop", "order.paid", None).await;
    assert!(matches!(gone, Err(WriteError::NotFound { .. })), "{gone:?}");
    assert_eq!(names(&b.refresh().await.expect("refresh")), [""; 0]);
    assert_eq!(names(&seen), ["order.paid"], "a snapshot does not change");
    let again = a
        .put_event_type(&paid, false, Some(0))
        .await
        .expect("again");
    assert!(again.created && again.written.version == 4);
}

#[tokio::test(start_paused = true)]
async fn a_project_with_a_preset_has_its_catalog_and_keeps_what_people_made_of_it() {
    let journal = MemoryJournal::new();
    let a = open(&journal).await;
    let plain = a.put_project(&project(None), None).await.expect("plain");
    assert_eq!(plain.loaded, None);
    let sms = project(Some(Preset::SmsGateway));
    let done = a.put_project(&sms, None).await.expect("with a preset");
    let loaded = done.loaded.expect("loaded");
    assert_eq!((loaded.created, loaded.kept), (4, 0));
    let snapshot = a.refresh().await.expect("refresh");
    assert_eq!(names(&snapshot), SMS);
    let reply = Preset::SmsGateway.event_type("sms.reply").expect("there");
    let entry = snapshot.event_type("shop", "sms.reply").expect("there");
    assert_eq!(entry.settings.schema.as_ref(), Some(&reply.schema));
    assert!(
        !journal.text().contains("received_at"),
        "what is the preset's is not stored again for each project"
    );

    // People change one, archive one, delete one.
    let mine = event_type("name: sms.reply\ntitle: Mine");
    a.put_event_type(&mine, false, None).await.expect("changed");
    let archived = event_type("name: url.click\npreset: sms-gateway\ntitle: Click\narchived: true");
    a.put_event_type(&archived, false, None)
        .await
        .expect("archived");
    a.delete_event_type("shop", "url.preview", None)
        .await
        .expect("deleted");

    let before = journal.appended();
    let again = a.put_project(&sms, None).await.expect("again");
    let loaded = again.loaded.expect("loaded");
    assert_eq!((loaded.created, loaded.revived, loaded.kept), (0, 0, 4));
    assert_eq!(journal.appended(), before, "nothing was written");

    let shop = shop();
    let all = a.load_catalog(&shop, Preset::SmsGateway, CatalogScope::All);
    let all = all.await.expect("loaded");
    assert_eq!((all.created, all.revived, all.kept), (1, 1, 2));
    let b = open(&journal).await;
    let snapshot = b.snapshot();
    assert_eq!(names(&snapshot), SMS);
    let title = |name| {
        &*snapshot
            .event_type("shop", name)
            .expect("there")
            .settings
            .title
    };
    assert_eq!((title("sms.reply"), title("url.click")), ("Mine", "Click"));
    assert!(
        snapshot
            .event_types("shop")
            .all(|entry| !entry.settings.archived)
    );

    let other = Slug::new("other").expect("slug");
    let none = a
        .load_catalog(&other, Preset::Wooxy, CatalogScope::All)
        .await;
    assert!(matches!(none, Err(WriteError::NotFound { .. })), "{none:?}");
}

#[tokio::test(start_paused = true)]
async fn a_catalog_half_loaded_is_completed_by_writing_the_project_again() {
    let journal = MemoryJournal::new();
    let a = open(&journal).await;
    // The project and two event types are stored, the third is not.
    journal.forecast([Weather::Fine, Weather::Fine, Weather::Fine, Weather::Lost]);
    let sms = project(Some(Preset::SmsGateway));
    let failed = a.put_project(&sms, None).await;
    assert!(
        matches!(failed, Err(WriteError::OutcomeUnknown { .. })),
        "{failed:?}"
    );
    assert_eq!(names(&a.refresh().await.expect("refresh")).len(), 2);
    let b = open(&journal).await;
    let done = b.put_project(&sms, None).await.expect("fine again");
    assert!(!done.written.changed, "the project was written before");
    let loaded = done.loaded.expect("loaded");
    assert_eq!((loaded.created, loaded.kept), (2, 2));
    assert_eq!(names(&b.refresh().await.expect("refresh")), SMS);
}

#[tokio::test(start_paused = true)]
async fn of_two_that_load_at_once_and_one_that_writes_all_end_alike() {
    let journal = MemoryJournal::new();
    let (a, b) = (open(&journal).await, open(&journal).await);
    let sms = project(Some(Preset::SmsGateway));
    let mine = event_type("name: sms.reply\ntitle: Mine");
    let (x, y, z) = tokio::join!(
        a.put_project(&sms, None),
        b.put_project(&sms, None),
        b.put_event_type(&mine, true, None),
    );
    let made = [x.expect("a"), y.expect("b")];
    let created: usize = made
        .iter()
        .filter_map(|m| m.loaded)
        .map(|l| l.created)
        .sum();
    z.expect("mine");
    assert!((3..=4).contains(&created), "{made:?}");
    let (a, b) = (a.refresh().await.expect("a"), b.refresh().await.expect("b"));
    for snapshot in [a, b] {
        assert_eq!(names(&snapshot), SMS);
        let reply = snapshot.event_type("shop", "sms.reply").expect("there");
        assert_eq!(
            reply.settings.title, "Mine",
            "what a person writes is not undone"
        );
    }
}
