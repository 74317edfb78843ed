//! An event as the interpreter sees it. Texts are borrowed, lists and groups are shared, so that nothing a filter does copies them.

use std::collections::HashMap;
use std::sync::Arc;

use cel::ExecutionError;
use cel::common::traits::{Container, Indexer, Iterable, Iterator as CelIterator, Sizer};
use cel::common::types::{
    CelBool, CelDouble, CelInt, CelNull, CelString, CelUInt, LIST_TYPE, MAP_TYPE, Type,
};
use cel::common::value::{CowVal, Val};
use serde_json::Value;

use crate::event::is_json;
use crate::wire;

type Boxed<'v> = Box<dyn Val + 'v>;

/// The data of an event, read once for all filters that look at it.
#[derive(Debug)]
pub struct EventData(Option<Value>);

impl EventData {
    /// Reads the data; what is not JSON is not there.
    #[must_use]
    pub fn of(event: &wire::Event) -> Self {
        let json = !event.data.is_empty() && is_json(&event.data_content_type);
        Self(
            json.then(|| serde_json::from_slice(&event.data).ok())
                .flatten(),
        )
    }
}

/// An event that filters are asked about.
#[derive(Debug)]
pub struct Subject<'v>(Group<'v>);

impl<'v> Subject<'v> {
    /// The event, with what [`EventData::of`] read from it.
    #[must_use]
    pub fn new(event: &'v wire::Event, data: &'v EventData) -> Self {
        let mut group = Fields::default();
        // Extension attributes stand beside the others, as in a CloudEvent. They cannot have the names of those.
        let extensions = event.extensions.iter();
        let extensions = extensions.map(|(name, value)| (name.as_str(), value.as_str()));
        let attributes = [
            ("id", event.id.as_str()),
            ("source", &event.source),
            ("project", &event.project),
            ("type", &event.r#type),
            ("time", &event.time),
            ("key", &event.key),
            ("subject", &event.subject),
            ("dataschema", &event.data_schema),
            ("datacontenttype", &event.data_content_type),
        ];
        for (name, value) in extensions.chain(texts(&attributes)) {
            group.put(name, text(value));
        }
        if let Some(contact) = &event.contact {
            let mut fields = Fields::default();
            let parts = [
                ("id", contact.id.as_str()),
                ("email", &contact.email),
                ("phone", &contact.phone),
            ];
            for (name, value) in texts(&parts) {
                fields.put(name, text(value));
            }
            group.put("contact", Box::new(Group(Arc::new(fields))));
        }
        if let Some(data) = &data.0 {
            group.put("data", json(data));
        }
        Self(Group(Arc::new(group)))
    }

    pub(super) fn value(&self) -> Boxed<'v> {
        Box::new(self.0.clone())
    }
}

/// Those that are there.
fn texts<'a, 'v>(
    pairs: &'a [(&'v str, &'v str)],
) -> impl Iterator<Item = (&'v str, &'v str)> + use<'a, 'v> {
    pairs.iter().copied().filter(|(_, value)| !value.is_empty())
}

fn text(value: &str) -> Boxed<'_> {
    Box::new(CelString::from(value))
}

/// As deep as the reader of JSON goes, which is not deep.
fn json(value: &Value) -> Boxed<'_> {
    match value {
        Value::Null => Box::new(CelNull),
        Value::Bool(value) => Box::new(CelBool::from(*value)),
        Value::Number(number) => {
            if let Some(int) = number.as_i64() {
                Box::new(CelInt::from(int))
            } else if let Some(uint) = number.as_u64() {
                Box::new(CelUInt::from(uint))
            } else {
                Box::new(CelDouble::from(number.as_f64().unwrap_or(f64::NAN)))
            }
        }
        Value::String(value) => text(value),
        Value::Array(values) => Box::new(List(values.iter().map(json).collect())),
        Value::Object(map) => {
            let mut fields = Fields::default();
            for (name, value) in map {
                fields.put(name, json(value));
            }
            Box::new(Group(Arc::new(fields)))
        }
    }
}

/// A list of an event.
#[derive(Debug, Clone)]
struct List<'v>(Arc<[Boxed<'v>]>);

/// What has keys.
#[derive(Debug, Clone)]
struct Group<'v>(Arc<Fields<'v>>);

#[derive(Debug, Default)]
struct Fields<'v> {
    /// As values, for loops over them.
    names: Vec<Boxed<'v>>,
    values: HashMap<&'v str, Boxed<'v>>,
}

impl<'v> Fields<'v> {
    fn put(&mut self, name: &'v str, value: Boxed<'v>) {
        if self.values.insert(name, value).is_none() {
            self.names.push(text(name));
        }
    }
}

struct Entries<'b, 'v>(std::slice::Iter<'b, Boxed<'v>>);

impl<'b, 'v: 'w, 'w> CelIterator<'b, 'w> for Entries<'b, 'v> {
    fn next(&mut self) -> Option<&'b (dyn Val + 'w)> {
        self.0.next().map(|value| &**value as &(dyn Val + 'w))
    }
}

fn size(len: usize) -> CelInt {
    CelInt::from(i64::try_from(len).unwrap_or(i64::MAX))
}

fn mistyped(got: &dyn Val, want: &str) -> ExecutionError {
    ExecutionError::UnexpectedType {
        got: got.get_type().name().to_owned(),
        want: want.to_owned(),
    }
}

impl Val for List<'_> {
    fn get_type(&self) -> &Type {
        &LIST_TYPE
    }

    fn cel_type() -> &'static Type {
        &LIST_TYPE
    }

    fn as_container(&self) -> Option<&dyn Container> {
        Some(self)
    }

    fn as_indexer<'b, 'w>(&'b self) -> Option<&'b (dyn Indexer + 'w)>
    where
        Self: 'w,
    {
        Some(self)
    }

    fn as_iterable<'b, 'w>(&'b self) -> Option<&'b (dyn Iterable + 'w)>
    where
        Self: 'w,
    {
        Some(self)
    }

    fn as_sizer(&self) -> Option<&dyn Sizer> {
        Some(self)
    }

    fn equals(&self, other: &dyn Val) -> bool {
        let (Some(entries), Some(sizer)) = (other.as_iterable(), other.as_sizer()) else {
            return false;
        };
        let len = *sizer.size().inner();
        if other.get_type().kind() != LIST_TYPE.kind() || usize::try_from(len) != Ok(self.0.len()) {
            return false;
        }
        let mut entries = entries.iter();
        self.0
            .iter()
            .all(|own| entries.next().is_some_and(|other| own.equals(other)))
    }

    fn clone_as_boxed<'w>(&self) -> Boxed<'w>
    where
        Self: 'w,
    {
        Box::new(self.clone())
    }
}

impl Container for List<'_> {
    fn contains(&self, value: &dyn Val) -> Result<bool, ExecutionError> {
        Ok(self.0.iter().any(|own| own.equals(value)))
    }
}

impl Indexer for List<'_> {
    fn get<'b, 'w>(&'b self, index: &dyn Val) -> Result<CowVal<'b, 'w>, ExecutionError>
    where
        Self: 'w,
    {
        let index = index
            .downcast_ref::<CelInt>()
            .ok_or_else(|| mistyped(index, "int"))?;
        let found = usize::try_from(*index.inner()).ok();
        match found.and_then(|index| self.0.get(index)) {
            Some(value) => Ok(CowVal::Borrowed(&**value)),
            None => Err(ExecutionError::IndexOutOfBounds((*index.inner()).into())),
        }
    }

    fn steal<'w>(self: Box<Self>, index: &dyn Val) -> Result<Boxed<'w>, ExecutionError>
    where
        Self: 'w,
    {
        self.get(index).map(CowVal::into_owned)
    }
}

impl Iterable for List<'_> {
    fn iter<'b, 'w>(&'b self) -> Box<dyn CelIterator<'b, 'w> + 'b>
    where
        Self: 'w,
    {
        Box::new(Entries(self.0.iter()))
    }
}

impl Sizer for List<'_> {
    fn size(&self) -> CelInt {
        size(self.0.len())
    }
}

impl Val for Group<'_> {
    fn get_type(&self) -> &Type {
        &MAP_TYPE
    }

    fn cel_type() -> &'static Type {
        &MAP_TYPE
    }

    fn as_container(&self) -> Option<&dyn Container> {
        Some(self)
    }

    fn as_indexer<'b, 'w>(&'b self) -> Option<&'b (dyn Indexer + 'w)>
    where
        Self: 'w,
    {
        Some(self)
    }

    fn as_iterable<'b, 'w>(&'b self) -> Option<&'b (dyn Iterable + 'w)>
    where
        Self: 'w,
    {
        Some(self)
    }

    fn as_sizer(&self) -> Option<&dyn Sizer> {
        Some(self)
    }

    fn equals(&self, other: &dyn Val) -> bool {
        let (Some(fields), Some(sizer)) = (other.as_indexer(), other.as_sizer()) else {
            return false;
        };
        let len = *sizer.size().inner();
        if other.get_type().kind() != MAP_TYPE.kind()
            || usize::try_from(len) != Ok(self.0.values.len())
        {
            return false;
        }
        self.0.values.iter().all(|(name, own)| {
            let other = fields.get(&CelString::from(*name));
            other.is_ok_and(|other| own.equals(&*other))
        })
    }

    fn clone_as_boxed<'w>(&self) -> Boxed<'w>
    where
        Self: 'w,
    {
        Box::new(self.clone())
    }
}

impl Container for Group<'_> {
    fn contains(&self, value: &dyn Val) -> Result<bool, ExecutionError> {
        let name = value.downcast_ref::<CelString>();
        Ok(name.is_some_and(|name| self.0.values.contains_key(name.inner())))
    }
}

impl Indexer for Group<'_> {
    fn get<'b, 'w>(&'b self, name: &dyn Val) -> Result<CowVal<'b, 'w>, ExecutionError>
    where
        Self: 'w,
    {
        let name = name
            .downcast_ref::<CelString>()
            .ok_or_else(|| mistyped(name, "string"))?
            .inner();
        match self.0.values.get(name) {
            Some(value) => Ok(CowVal::Borrowed(&**value)),
            None => Err(ExecutionError::no_such_key(name)),
        }
    }

    fn steal<'w>(self: Box<Self>, name: &dyn Val) -> Result<Boxed<'w>, ExecutionError>
    where
        Self: 'w,
    {
        self.get(name).map(CowVal::into_owned)
    }
}

impl Iterable for Group<'_> {
    fn iter<'b, 'w>(&'b self) -> Box<dyn CelIterator<'b, 'w> + 'b>
    where
        Self: 'w,
    {
        Box::new(Entries(self.0.names.iter()))
    }
}

impl Sizer for Group<'_> {
    fn size(&self) -> CelInt {
        size(self.0.values.len())
    }
}
