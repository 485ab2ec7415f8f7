//! What a type looks like to serde, as one number: so that stored state of another shape is told from
//! today's before it is read.
//!
//! A type cannot be asked for its fields, but its `Deserialize` asks for them. So it is given a
//! deserializer that has no data and takes down what is asked for: names of structs and enums, fields,
//! variants, kinds of values, and the same for what lies inside. Each place in the type is reached by a
//! run of its own, from the outside along a path, because a run ends at its goal; so a type that refuses
//! made-up values (an id that parses its text, say) hides only what is inside of it.
//!
//! Names of modules do not count, nor does what is never asked for: a custom `Deserialize` shows as the
//! text or number that it asks for.

use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer as _, MapAccess, SeqAccess,
    VariantAccess, Visitor,
};

use crate::hash::Fnv;

/// How deep and how far it is looked. A type that contains itself has no end.
const DEPTH: usize = 12;
const PLACES: usize = 2_000;

/// The shape of a type: the same for the same fields, variants and kinds of values.
pub(crate) fn shape<T: DeserializeOwned>() -> u64 {
    let mut hash = Fnv::new();
    // Broad before deep, so that what has no end takes no room from the rest.
    let mut paths = VecDeque::from([Vec::new()]);
    let mut left = PLACES;
    while left > 0
        && let Some(path) = paths.pop_front()
    {
        left -= 1;
        let mut walk = Walk { path: &path, found: None };
        // What the type makes of made-up values is its own affair; that it panics says no more than
        // that it refuses.
        let run = AssertUnwindSafe(|| T::deserialize(Probe { walk: Some(&mut walk), level: 0 }).is_ok());
        let _ = catch_unwind(run);
        path.iter().for_each(|step| hash.number(*step as u64));
        // What was not reached counts as that.
        let Some(Found { looks, inside }) = walk.found else { continue };
        hash.text(&looks);
        if path.len() < DEPTH {
            paths.extend((0..inside).map(|step| [&*path, &[step]].concat()));
        }
    }
    hash.finish()
}

/// A run to the place at the end of a path; each step is the number of what lies inside.
struct Walk<'a> {
    path: &'a [usize],
    found: Option<Found>,
}

struct Found {
    looks: String,
    /// How many places lie inside of this one.
    inside: usize,
}

/// Ends a run.
#[derive(Debug)]
struct Stop;

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("enough seen")
    }
}

impl std::error::Error for Stop {}

impl serde::de::Error for Stop {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }
}

type End<T> = Result<T, Stop>;

/// One place in the type. Without a walk it only makes up a value, for what has to be there before the
/// next thing is asked for.
struct Probe<'w, 'p> {
    walk: Option<&'w mut Walk<'p>>,
    level: usize,
}

/// What a probe is to do: go on inside, or make up a value.
enum Way<'w, 'p> {
    Inside(usize, Probe<'w, 'p>),
    MadeUp(usize),
}

impl<'w, 'p> Probe<'w, 'p> {
    /// Says what was asked for, and ends the run if this is its goal.
    fn asked(self, looks: impl FnOnce() -> String, inside: usize) -> End<Way<'w, 'p>> {
        let Some(walk) = self.walk else {
            // A value that has itself inside cannot be made up.
            return if self.level < DEPTH { Ok(Way::MadeUp(self.level + 1)) } else { Err(Stop) };
        };
        match walk.path.get(self.level) {
            None => {
                walk.found = Some(Found { looks: looks(), inside });
                Err(Stop)
            }
            Some(step) => Ok(Way::Inside(*step, Self { walk: Some(walk), level: self.level + 1 })),
        }
    }

    fn value(self, looks: &str) -> End<()> {
        self.asked(|| looks.to_owned(), 0).map(drop)
    }
}

fn made_up<'w, 'p>(level: usize) -> Probe<'w, 'p> {
    Probe { walk: None, level }
}

macro_rules! values {
    ($($deserialize:ident $visit:ident $value:expr;)*) => {$(
        fn $deserialize<V: Visitor<'de>>(self, visitor: V) -> End<V::Value> {
            self.value(stringify!($deserialize))?;
            visitor.$visit($value)
        }
    )*};
}

// Values that are refused least: no number that is `NonZero` wants 0, and many a text is a number.
impl<'de> Deserializer<'de> for Probe<'_, '_> {
    type Error = Stop;

    values! {
        deserialize_bool visit_bool false;
        deserialize_i8 visit_i8 1;
        deserialize_i16 visit_i16 1;
        deserialize_i32 visit_i32 1;
        deserialize_i64 visit_i64 1;
        deserialize_i128 visit_i128 1;
        deserialize_u8 visit_u8 1;
        deserialize_u16 visit_u16 1;
        deserialize_u32 visit_u32 1;
        deserialize_u64 visit_u64 1;
        deserialize_u128 visit_u128 1;
        deserialize_f32 visit_f32 1.0;
        deserialize_f64 visit_f64 1.0;
        deserialize_char visit_char '1';
        deserialize_str visit_borrowed_str "1";
        deserialize_string visit_borrowed_str "1";
        deserialize_bytes visit_borrowed_bytes b"1";
        deserialize_byte_buf visit_borrowed_bytes b"1";
        deserialize_identifier visit_borrowed_str "1";
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> End<V::Value> {
        self.value("any")?;
        visitor.visit_unit()
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> End<V::Value> {
        self.value("ignored")?;
        visitor.visit_unit()
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> End<V::Value> {
        self.value("unit")?;
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> End<V::Value> {
        self.value(&format!("struct {name}"))?;
        visitor.visit_unit()
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> End<V::Value> {
        match self.asked(|| "option".to_owned(), 1)? {
            Way::Inside(_, inside) => visitor.visit_some(inside),
            Way::MadeUp(_) => visitor.visit_none(),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> End<V::Value> {
        match self.asked(|| format!("newtype {name}"), 1)? {
            Way::Inside(_, inside) => visitor.visit_newtype_struct(inside),
            Way::MadeUp(level) => visitor.visit_newtype_struct(made_up(level)),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> End<V::Value> {
        match self.asked(|| "seq".to_owned(), 1)? {
            Way::Inside(_, inside) => visitor.visit_seq(Elements::up_to(0, inside)),
            Way::MadeUp(level) => visitor.visit_seq(Elements::made_up(0, level)),
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> End<V::Value> {
        match self.asked(|| format!("tuple {len}"), len)? {
            Way::Inside(step, inside) => visitor.visit_seq(Elements::up_to(step, inside)),
            Way::MadeUp(level) => visitor.visit_seq(Elements::made_up(len, level)),
        }
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        len: usize,
        visitor: V,
    ) -> End<V::Value> {
        match self.asked(|| format!("tuple {name} {len}"), len)? {
            Way::Inside(step, inside) => visitor.visit_seq(Elements::up_to(step, inside)),
            Way::MadeUp(level) => visitor.visit_seq(Elements::made_up(len, level)),
        }
    }

    /// The first place inside is the key, the second the value.
    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> End<V::Value> {
        match self.asked(|| "map".to_owned(), 2)? {
            Way::Inside(0, inside) => visitor.visit_map(Entry { key: Some(inside), value: None }),
            Way::Inside(_, inside) => visitor.visit_map(Entry { key: Some(made_up(0)), value: Some(inside) }),
            Way::MadeUp(_) => visitor.visit_map(Entry { key: None, value: None }),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> End<V::Value> {
        match self.asked(|| format!("struct {name} {fields:?}"), fields.len())? {
            // The fields before it are left out: that they are missing shows only at the end.
            Way::Inside(step, inside) => visitor.visit_map(Fields::only(fields.get(step), inside)),
            Way::MadeUp(level) => visitor.visit_map(Fields::made_up(fields, level)),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> End<V::Value> {
        let (step, content) = match self.asked(|| format!("enum {name} {variants:?}"), variants.len())? {
            Way::Inside(step, inside) => (step, inside),
            Way::MadeUp(level) => (0, made_up(level)),
        };
        visitor.visit_enum(Variant { name: variants.get(step).copied().unwrap_or_default(), content })
    }
}

/// The elements of a sequence: made-up ones, and behind them the one that is looked at.
struct Elements<'w, 'p> {
    made_up: usize,
    level: usize,
    last: Option<Probe<'w, 'p>>,
}

impl<'w, 'p> Elements<'w, 'p> {
    fn up_to(step: usize, last: Probe<'w, 'p>) -> Self {
        Self { made_up: step, level: 0, last: Some(last) }
    }

    fn made_up(made_up: usize, level: usize) -> Self {
        Self { made_up, level, last: None }
    }
}

impl<'de> SeqAccess<'de> for Elements<'_, '_> {
    type Error = Stop;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> End<Option<T::Value>> {
        if self.made_up > 0 {
            self.made_up -= 1;
            return seed.deserialize(made_up(self.level)).map(Some);
        }
        self.last.take().map(|last| seed.deserialize(last)).transpose()
    }
}

/// The fields of a struct: one that is looked at, or all, made up.
struct Fields<'w, 'p> {
    names: &'static [&'static str],
    level: usize,
    only: Option<Probe<'w, 'p>>,
}

impl<'w, 'p> Fields<'w, 'p> {
    fn only(name: Option<&'static &'static str>, only: Probe<'w, 'p>) -> Self {
        Self { names: name.map_or(&[], std::slice::from_ref), level: 0, only: Some(only) }
    }

    fn made_up(names: &'static [&'static str], level: usize) -> Self {
        Self { names, level, only: None }
    }
}

impl<'de> MapAccess<'de> for Fields<'_, '_> {
    type Error = Stop;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> End<Option<K::Value>> {
        let Some((name, rest)) = self.names.split_first() else { return Ok(None) };
        self.names = rest;
        let name: StrDeserializer<'_, Stop> = name.into_deserializer();
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> End<T::Value> {
        match self.only.take() {
            Some(only) => seed.deserialize(only),
            None => seed.deserialize(made_up(self.level)),
        }
    }
}

/// The one entry of a map, or none.
struct Entry<'w, 'p> {
    key: Option<Probe<'w, 'p>>,
    value: Option<Probe<'w, 'p>>,
}

impl<'de> MapAccess<'de> for Entry<'_, '_> {
    type Error = Stop;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> End<Option<K::Value>> {
        self.key.take().map(|key| seed.deserialize(key)).transpose()
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> End<T::Value> {
        seed.deserialize(self.value.take().ok_or(Stop)?)
    }
}

/// A variant of an enum, and what is in it.
struct Variant<'w, 'p> {
    name: &'static str,
    content: Probe<'w, 'p>,
}

impl<'de> EnumAccess<'de> for Variant<'_, '_> {
    type Error = Stop;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> End<(V::Value, Self)> {
        let name: StrDeserializer<'_, Stop> = self.name.into_deserializer();
        Ok((seed.deserialize(name)?, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_, '_> {
    type Error = Stop;

    fn unit_variant(self) -> End<()> {
        self.content.value("unit variant")
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> End<T::Value> {
        seed.deserialize(self.content)
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> End<V::Value> {
        self.content.deserialize_tuple(len, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(self, fields: &'static [&'static str], visitor: V) -> End<V::Value> {
        self.content.deserialize_struct(self.name, fields, visitor)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::num::NonZeroU8;

    use serde::de::DeserializeOwned;
    use serde::{Deserialize, Deserializer};

    use super::shape;

    /// The derive of serde is not at hand in this crate, so types are written as it would write them.
    macro_rules! record {
        ($module:ident $name:ident { $($field:ident: $ty:ty),* }) => {
            mod $module {
                use super::*;
                pub(super) struct $name;
                impl<'de> Deserialize<'de> for $name {
                    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                        struct Visitor;
                        impl<'de> serde::de::Visitor<'de> for Visitor {
                            type Value = $name;
                            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                                f.write_str("a record")
                            }
                            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<$name, A::Error> {
                                $(let mut $field: Option<$ty> = None;)*
                                while let Some(key) = map.next_key::<String>()? {
                                    match key.as_str() {
                                        $(stringify!($field) => $field = Some(map.next_value()?),)*
                                        _ => unreachable!("nobody asks for {key}"),
                                    }
                                }
                                $($field.ok_or_else(|| serde::de::Error::missing_field(stringify!($field)))?;)*
                                Ok($name)
                            }
                        }
                        const FIELDS: &[&str] = &[$(stringify!($field)),*];
                        deserializer.deserialize_struct(stringify!($name), FIELDS, Visitor)
                    }
                }
            }
        };
    }

    record!(plain Account { owner: String, balance: u64 });
    record!(moved Account { owner: String, balance: u64 });
    record!(renamed Account { holder: String, balance: u64 });
    record!(signed Account { owner: String, balance: i64 });
    record!(longer Account { owner: String, balance: u64, limit: u64 });
    record!(swapped Account { balance: u64, owner: String });
    record!(outside Bank { odd: Picky, first: plain::Account, rest: Vec<plain::Account> });
    record!(inside Bank { odd: Picky, first: plain::Account, rest: Vec<signed::Account> });
    record!(endless Node { left: Option<Box<Node>>, right: Option<Box<Node>>, last: Last });
    record!(without_end Node { left: Option<Box<Node>>, right: Option<Box<Node>>, last: u8 });

    type Last = u16;

    /// Takes no text that is made up.
    struct Picky;

    impl<'de> Deserialize<'de> for Picky {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            let text = String::deserialize(deserializer)?;
            if text == "so" { Ok(Self) } else { Err(serde::de::Error::custom("not so")) }
        }
    }

    /// Panics at what is made up.
    struct Panics;

    impl<'de> Deserialize<'de> for Panics {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            let _ = u8::deserialize(deserializer);
            std::panic::resume_unwind(Box::new("made up"))
        }
    }

    fn differ<A: DeserializeOwned, B: DeserializeOwned>() -> bool {
        assert_eq!(shape::<A>(), shape::<A>());
        shape::<A>() != shape::<B>()
    }

    #[test]
    fn the_same_in_another_module_is_the_same() {
        assert!(!differ::<plain::Account, moved::Account>());
    }

    #[test]
    fn fields_and_kinds_count() {
        assert!(differ::<plain::Account, renamed::Account>());
        assert!(differ::<plain::Account, signed::Account>());
        assert!(differ::<plain::Account, longer::Account>());
        assert!(differ::<plain::Account, swapped::Account>());
        assert!(differ::<u64, i64>() && differ::<u8, Option<u8>>() && differ::<String, char>());
        assert!(differ::<(u8, u8), (u8, u16)>() && differ::<(u8, u8), [u8; 3]>());
        assert!(differ::<BTreeMap<u8, String>, BTreeMap<u16, String>>());
        assert!(differ::<BTreeMap<u8, String>, BTreeMap<u8, char>>());
        assert!(differ::<Result<u8, u16>, Result<u8, u8>>());
        assert!(!differ::<Vec<NonZeroU8>, Vec<u8>>(), "as JSON they are the same");
    }

    /// A field that refuses hides neither those behind it nor what lies inside of them.
    #[test]
    fn what_lies_deep_and_behind_counts() {
        assert!(differ::<outside::Bank, inside::Bank>());
        assert!(differ::<(NonZeroU8, plain::Account), (NonZeroU8, signed::Account)>());
    }

    #[test]
    fn what_has_no_end_and_what_panics_has_a_shape() {
        assert!(differ::<endless::Node, without_end::Node>());
        assert!(differ::<(u8, Panics), (u8, Vec<Panics>)>());
    }

    /// Snapshots outlive a release: what is written here is what is stored.
    #[test]
    fn shapes_are_stable_over_releases() {
        assert_eq!(shape::<plain::Account>(), 13_649_602_343_070_255_265);
    }
}
