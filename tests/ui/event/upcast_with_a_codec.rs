use cqrs::prelude::*;

struct Xml;

impl cqrs::Codec for Xml {
    fn encode<T: Serialize>(value: &T) -> Result<bytes::Bytes, cqrs::codec::CodecError> {
        cqrs::codec::Json::encode(value)
    }
    fn decode<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, cqrs::codec::CodecError> {
        cqrs::codec::Json::decode(bytes)
    }
}

#[derive(Event, Serialize, Deserialize)]
#[event(version = 2, upcast(lift), codec = Xml)]
struct Opened;

fn lift(json: serde_json::Value) -> serde_json::Value {
    json
}

fn main() {}
