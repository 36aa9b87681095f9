//! Command-line options from what libraries declare: words from the JSON Schema of an enumeration, whole groups of options
//! from that of a struct.

use std::fmt::Formatter;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, value_parser};
use qn_train::Settings;
use schemars::JsonSchema;
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};

/// The words of an enumeration, each with what its documentation says; read as serde reads them.
pub(crate) fn words<T>() -> impl TypedValueParser<Value = T>
where
    T: JsonSchema + DeserializeOwned + Clone + Send + Sync + 'static,
{
    let schema = schemars::schema_for!(T).to_value();
    let values = words_of(&schema).into_iter().map(|(word, what)| match what {
        Some(what) => PossibleValue::new(word).help(what),
        None => PossibleValue::new(word),
    });
    PossibleValuesParser::new(values).try_map(|word| read(Value::String(word)))
}

/// Some words, read as serde reads them.
pub(crate) fn named<T>(words: &'static [&'static str]) -> impl TypedValueParser<Value = T>
where
    T: DeserializeOwned + Clone + Send + Sync + 'static,
{
    PossibleValuesParser::new(words).try_map(|word| read(Value::String(word)))
}

fn read<T: DeserializeOwned>(value: Value) -> Result<T, serde_json::Error> {
    serde_json::from_value(value)
}

/// The words of a schema of an enumeration, with what is said of them.
fn words_of(schema: &Value) -> Vec<(String, Option<String>)> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let plain = |of: &Value| -> Vec<(String, Option<String>)> {
        of["enum"].as_array().into_iter().flatten().filter_map(|word| Some((text(word)?, None))).collect()
    };
    let mut found = plain(schema);
    for one in schema["oneOf"].as_array().into_iter().flatten() {
        found.extend(plain(one));
        found.extend(text(&one["const"]).map(|word| (word, help(one))));
    }
    found
}

/// What a schema says of something: on one line, without the full stop of a single sentence's end.
fn help(schema: &Value) -> Option<String> {
    let words = schema["description"].as_str()?.replace('\n', " ");
    Some(words.strip_suffix('.').unwrap_or(&words).to_owned())
}

/// The options of a training run: those of [`Settings`].
#[derive(Clone, Debug)]
pub(crate) struct SettingsArgs(pub(crate) Settings);

/// What an option's value is called in the help, where it is not the option's own name.
const VALUE_NAMES: [(&str, &str); 13] = [
    ("normalise", "MEAN,STD|none|auto"),
    ("samples", "N"),
    ("weight-decay", "W"),
    ("dampening", "D"),
    ("max-newton-step", "X"),
    ("subspace-every", "N"),
    ("subspace-samples", "N"),
    ("logit-scale", "S"),
    ("batch-size", "N|full"),
    ("snapshot-every", "N"),
    ("checkpoint-every", "N"),
    ("keep-checkpoints", "N"),
    ("log-every", "N"),
];
/// Options that exclude each other.
const CONFLICT: [&str; 2] = ["epochs", "steps"];

/// What the value of a field is, by its schema.
enum Kind {
    Flag,
    Words(Vec<(String, Option<String>)>),
    Whole,
    Number,
    Text,
}

impl Kind {
    fn of(field: &Value, definitions: &Value) -> Self {
        if let Some(name) = field["$ref"].as_str().and_then(|r| r.strip_prefix("#/$defs/")) {
            return Self::of(&definitions[name], definitions);
        }
        // An option: the schema of what it may hold, or null.
        if let Some(one) = field["anyOf"].as_array().and_then(|any| any.iter().find(|s| s["type"] != "null"))
        {
            return Self::of(one, definitions);
        }
        let words = words_of(field);
        if !words.is_empty() {
            return Self::Words(words);
        }
        let is = |name: &str| match &field["type"] {
            Value::Array(types) => types.iter().any(|t| t == name),
            one => one == name,
        };
        match () {
            () if is("boolean") => Self::Flag,
            () if is("integer") => Self::Whole,
            () if is("number") => Self::Number,
            () => Self::Text,
        }
    }

    fn value(&self, name: &str, matches: &ArgMatches) -> Option<Value> {
        match self {
            Self::Flag => Some(json!(matches.get_flag(name))),
            Self::Whole => matches.get_one::<u64>(name).map(|n| json!(n)),
            Self::Number => matches.get_one::<f64>(name).map(|x| json!(x)),
            Self::Words(_) | Self::Text => matches.get_one::<String>(name).map(|s| json!(s)),
        }
    }
}

/// A number that JSON can hold, which has neither infinities nor NaN.
fn finite(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(x) if x.is_finite() => Ok(x),
        Ok(_) => Err("give a finite number".into()),
        Err(error) => Err(error.to_string()),
    }
}

/// Every field in the order of declaration: its name, its schema's kind, its help and its default.
fn fields() -> Vec<(String, Kind, Option<String>, Value)> {
    let schema = schemars::schema_for!(Settings).to_value();
    let defaults = serde_json::to_string(&Settings::default()).and_then(|text| serde_json::from_str(&text));
    let Ordered(defaults) = defaults.unwrap_or_default();
    let described = |(name, default): (String, Value)| {
        let field = &schema["properties"][&name];
        (name, Kind::of(field, &schema["$defs"]), help(field), default)
    };
    defaults.into_iter().map(described).collect()
}

/// The entries of an object in the order in which they are written, which [`Map`] does not keep.
#[derive(Default)]
struct Ordered(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Ordered {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Ordered;

            fn expecting(&self, to: &mut Formatter<'_>) -> std::fmt::Result {
                to.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Ordered, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Ordered(entries))
            }
        }
        from.deserialize_map(Entries)
    }
}

impl Args for SettingsArgs {
    fn augment_args(command: Command) -> Command {
        fields().into_iter().fold(command, |command, (name, kind, help, default)| {
            let mut arg = Arg::new(name.clone()).long(name.clone()).help(help.unwrap_or_default());
            arg = match &kind {
                Kind::Flag => return command.arg(arg.action(ArgAction::SetTrue)),
                Kind::Words(words) => {
                    arg.value_parser(PossibleValuesParser::new(words.iter().map(|(word, _)| word.clone())))
                }
                Kind::Whole => arg.value_parser(value_parser!(u64)),
                Kind::Number => arg.value_parser(finite),
                Kind::Text => arg.value_parser(value_parser!(String)),
            };
            let called = VALUE_NAMES.iter().find(|(of, _)| *of == name);
            arg =
                arg.value_name(called.map_or_else(
                    || name.to_uppercase().replace('-', "_"),
                    |(_, called)| (*called).to_owned(),
                ));
            arg = match default {
                Value::Null => arg,
                Value::String(word) => arg.default_value(word),
                // As the command line writes numbers: 0, not 0.0.
                number => arg.default_value(number.as_f64().map_or(number.to_string(), |x| x.to_string())),
            };
            if name == CONFLICT[0] {
                arg = arg.conflicts_with(CONFLICT[1]);
            }
            command.arg(arg)
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for SettingsArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut settings = Map::new();
        for (name, kind, _, _) in fields() {
            if let Some(value) = kind.value(&name, matches) {
                settings.insert(name, value);
            }
        }
        read(Value::Object(settings))
            .map(Self)
            .map_err(|error| clap::Error::raw(clap::error::ErrorKind::ValueValidation, format!("{error}\n")))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        settings: SettingsArgs,
    }

    #[test]
    fn an_empty_command_line_gives_the_defaults() {
        let found = Program::parse_from(["p"]).settings.0;
        assert_eq!(json!(found), json!(Settings::default()));
    }

    #[test]
    fn every_kind_of_option_is_read() {
        let line = "p --arch digits --lr 1e-3 --steps 7 --nesterov --momentum-on gradient --loss mse --max-newton-step 2";
        let found = Program::parse_from(line.split(' ')).settings.0;
        let expected = Settings {
            arch: "digits".into(),
            lr: 1e-3,
            steps: Some(7),
            nesterov: true,
            momentum_on: qn_run::MomentumOn::Gradient,
            loss: Some(qn_run::LossKind::Mse),
            max_newton_step: Some(2.0),
            ..Settings::default()
        };
        assert_eq!(json!(found), json!(expected));
        for wrong in [
            "p --loss huber",
            "p --steps 1.5",
            "p --steps 1 --epochs 1",
            "p --lr x",
            "p --lr inf",
            "p --damping nan",
        ] {
            assert!(Program::try_parse_from(wrong.split(' ')).is_err(), "{wrong}");
        }
    }
}
