//! A PDF file, object by object. What is finished may be taken away at once: all that is kept until the end is where each object begins, for
//! the table there, and the nodes of the tree of pages; of ten thousand pages some 160 KiB.

use bytes::Bytes;
use hookline_model::time::Millis;
use miniz_oxide::deflate::compress_to_vec_zlib;
use pdf_writer::{Chunk, Content, Date, Filter, Finish as _, Name, Rect, Ref, Str, TextStr};

/// The page: A4, lying.
pub(super) const PAGE: (f32, f32) = (842.0, 595.0);
/// The fonts.
pub(super) const REGULAR: Name<'static> = Name(b"R");
pub(super) const BOLD: Name<'static> = Name(b"B");
/// How many pages there are: it is said on every page, and known on the last.
pub(super) const OF_PAGES: Name<'static> = Name(b"N");
/// The size of the text that says so.
pub(super) const OF_PAGES_SIZE: f32 = 7.0;

/// Objects that every file has, by their numbers.
const CATALOG: i32 = 1;
const TREE: i32 = 2;
const FONTS: [(i32, Name<'static>, &[u8]); 2] =
    [(3, REGULAR, b"Helvetica"), (4, BOLD, b"Helvetica-Bold")];
const COUNT: i32 = 5;
const INFO: i32 = 6;
const RESOURCES: i32 = 7;
const FIXED: usize = 7;

/// Pages of a node of the tree.
const NODE_PAGES: usize = 100;
/// Entries of the table that are written at a time.
const ENTRIES: usize = 3000;
/// How much is done to make pages small: what more does takes much longer.
const COMPRESSION: u8 = 4;

/// A file under way.
pub(super) struct PdfFile {
    /// What is finished and not taken yet.
    out: Vec<u8>,
    /// Bytes that were taken.
    taken: u64,
    /// Where the objects begin, by number from 1 on.
    begins: Vec<u64>,
    /// Full nodes of the tree of pages.
    nodes: Vec<Ref>,
    /// The node that is filled, and its pages.
    node: Option<Ref>,
    kids: Vec<Ref>,
    pages: u32,
    /// Where the table is, and how many entries it has, once it is begun.
    table: Option<(u64, usize)>,
}

impl PdfFile {
    /// A file with a title, made at a moment.
    pub(super) fn new(title: &str, made: Millis) -> Self {
        let mut file = Self {
            out: b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n".to_vec(),
            taken: 0,
            begins: vec![0; FIXED],
            nodes: Vec::new(),
            node: None,
            kids: Vec::new(),
            pages: 0,
            table: None,
        };
        for (id, _, font) in FONTS {
            file.object(Ref::new(id), |chunk, id| {
                let mut written = chunk.type1_font(id);
                written.base_font(Name(font));
                written.encoding_predefined(Name(b"WinAnsiEncoding"));
            });
        }
        file.object(Ref::new(RESOURCES), |chunk, id| {
            let mut resources = chunk.indirect(id).dict();
            let mut fonts = resources.insert(Name(b"Font")).dict();
            for (id, name, _) in FONTS {
                fonts.pair(name, Ref::new(id));
            }
            fonts.finish();
            let mut forms = resources.insert(Name(b"XObject")).dict();
            forms.pair(OF_PAGES, Ref::new(COUNT));
        });
        file.object(Ref::new(INFO), |chunk, id| {
            let mut info = chunk.indirect(id).dict();
            info.pair(Name(b"Title"), TextStr(title));
            info.pair(Name(b"Producer"), TextStr("hookline"));
            if let Some(date) = date(made) {
                info.pair(Name(b"CreationDate"), date);
            }
        });
        file
    }

    /// Pages so far.
    pub(super) fn pages(&self) -> u32 {
        self.pages
    }

    /// Writes one object.
    fn object(&mut self, id: Ref, write: impl FnOnce(&mut Chunk, Ref)) {
        let mut chunk = Chunk::with_settings(pdf_writer::Settings { pretty: false });
        write(&mut chunk, id);
        let begin = self.taken + self.out.len() as u64;
        let place = usize::try_from(id.get() - 1).ok();
        if let Some(place) = place.and_then(|place| self.begins.get_mut(place)) {
            *place = begin;
        }
        self.out.extend_from_slice(chunk.as_bytes());
    }

    /// A number for another object.
    fn next_ref(&mut self) -> Ref {
        self.begins.push(0);
        // A file of so many objects would have grown beyond what its table can say long before.
        Ref::new(i32::try_from(self.begins.len()).unwrap_or(i32::MAX))
    }

    /// Adds a page that shows this.
    pub(super) fn page(&mut self, content: Content) {
        let node = match self.node {
            Some(node) => node,
            None => {
                let node = self.next_ref();
                self.node = Some(node);
                node
            }
        };
        let (page, stream) = (self.next_ref(), self.next_ref());
        let data = compress_to_vec_zlib(&content.finish(), COMPRESSION);
        self.object(stream, |chunk, id| {
            chunk.stream(id, &data).filter(Filter::FlateDecode);
        });
        self.object(page, |chunk, id| {
            let mut written = chunk.page(id);
            written.parent(node).contents(stream);
        });
        self.kids.push(page);
        self.pages += 1;
        if self.kids.len() == NODE_PAGES {
            self.close_node();
        }
    }

    fn close_node(&mut self) {
        let Some(node) = self.node.take() else {
            return;
        };
        let kids = std::mem::take(&mut self.kids);
        self.object(node, |chunk, id| {
            let mut pages = chunk.pages(id);
            pages.parent(Ref::new(TREE));
            pages.count(i32::try_from(kids.len()).unwrap_or(i32::MAX));
            pages.kids(kids);
        });
        self.nodes.push(node);
    }

    /// All pages are there: writes what says so. The table is still to come.
    pub(super) fn end(&mut self) {
        self.close_node();
        let (nodes, pages) = (std::mem::take(&mut self.nodes), self.pages);
        self.object(Ref::new(TREE), |chunk, id| {
            let mut tree = chunk.pages(id);
            tree.count(i32::try_from(pages).unwrap_or(i32::MAX));
            tree.kids(nodes);
            tree.media_box(Rect::new(0.0, 0.0, PAGE.0, PAGE.1));
            tree.pair(Name(b"Resources"), Ref::new(RESOURCES));
        });
        self.object(Ref::new(COUNT), |chunk, id| {
            let mut content = Content::new();
            content.begin_text().set_font(REGULAR, OF_PAGES_SIZE);
            content.show(Str(format!("of {pages}").as_bytes()));
            content.end_text();
            let content = content.finish();
            let mut form = chunk.form_xobject(id, &content);
            form.bbox(Rect::new(0.0, -3.0, 80.0, 10.0));
            let mut resources = form.resources();
            let (font, name, _) = FONTS[0];
            resources.fonts().pair(name, Ref::new(font));
        });
        self.object(Ref::new(CATALOG), |chunk, id| {
            let mut catalog = chunk.indirect(id).dict();
            catalog.pair(Name(b"Type"), Name(b"Catalog"));
            catalog.pair(Name(b"Pages"), Ref::new(TREE));
            let mut preferences = catalog.insert(Name(b"ViewerPreferences")).dict();
            preferences.pair(Name(b"DisplayDocTitle"), true);
        });
        let begin = self.taken + self.out.len() as u64;
        let entries = self.begins.len() + 1;
        let head = format!("xref\n0 {entries}\n0000000000 65535 f\r\n");
        self.out.extend_from_slice(head.as_bytes());
        self.table = Some((begin, 0));
    }

    /// Writes the next part of the table, and behind it the trailer; whether anything was still to be written.
    pub(super) fn table(&mut self) -> bool {
        let Some((begin, written)) = self.table else {
            return false;
        };
        let part = self.begins.iter().skip(written).take(ENTRIES);
        for at in part {
            let entry = format!("{at:010} 00000 n\r\n");
            self.out.extend_from_slice(entry.as_bytes());
        }
        let written = (written + ENTRIES).min(self.begins.len());
        if written < self.begins.len() {
            self.table = Some((begin, written));
            return true;
        }
        let trailer = format!(
            "trailer\n<</Size {}/Root {CATALOG} 0 R/Info {INFO} 0 R>>\nstartxref\n{begin}\n%%EOF\n",
            self.begins.len() + 1
        );
        self.out.extend_from_slice(trailer.as_bytes());
        self.table = None;
        true
    }

    /// What is finished; it is no longer kept.
    pub(super) fn take(&mut self) -> Bytes {
        self.taken += self.out.len() as u64;
        std::mem::take(&mut self.out).into()
    }
}

/// As a file says it: to the second, UTC.
fn date(moment: Millis) -> Option<Date> {
    let text = moment.to_rfc3339();
    let mut numbers = text.split(|c: char| !c.is_ascii_digit());
    let mut next = || numbers.next();
    let date = Date::new(next()?.parse().ok()?)
        .month(next()?.parse().ok()?)
        .day(next()?.parse().ok()?)
        .hour(next()?.parse().ok()?)
        .minute(next()?.parse().ok()?)
        .second(next()?.parse().ok()?);
    Some(date.utc_offset_hour(0).utc_offset_minute(0))
}
