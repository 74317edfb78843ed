//! What the words of the resource file already say but this version does not do. It is refused, so that nothing is silently ignored.
//!
//! This file is the one list. When a part is built, its line goes.

use super::reader::{At, Reader};
use crate::body::BodyForm;

/// Forms of a body that come later.
const BODIES: [&str; 1] = ["template"];

/// Refuses a body that comes later. Returns whether it did.
pub(super) fn refuse_body(reader: &mut Reader, at: &At<'_>) -> bool {
    let later = BODIES.iter().find(|word| at.is_word(word));
    if let Some(word) = later {
        let works: Vec<_> = BodyForm::ALL.iter().map(|form| form.as_str()).collect();
        let works = works.join(", ");
        reader.error(
            &at.path,
            format!("`body: {word}` is not supported yet; what works is `body`: {works}"),
        );
    }
    later.is_some()
}
