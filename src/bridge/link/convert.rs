//! Messages and their properties in the library's types and in ours.

use std::sync::Arc;

use rumqttc as v5;
use rumqttc_v4 as v4;

use crate::message::Class;
use crate::message::Message;
use crate::message::Properties;
use crate::topic::Qos;
use crate::topic::TopicName;

pub(super) fn message_v5(p: v5::Publish) -> Option<Message> {
    let topic = TopicName::new(std::str::from_utf8(&p.topic).ok()?).ok()?;
    let properties = p.properties.map(|p| {
        Arc::new(Properties {
            payload_format: p.payload_format_indicator,
            expiry: p.message_expiry_interval,
            content_type: p.content_type.map(Into::into),
            response_topic: p.response_topic.map(Into::into),
            correlation: p.correlation_data,
            user: p.user_properties.into_iter().map(|(k, v)| (k.into(), v.into())).collect(),
        })
    });
    let qos = Qos::try_from(p.qos as u8).ok()?;
    Some(Message {
        topic,
        payload: p.payload,
        qos,
        retain: p.retain,
        properties,
        class: Class::Normal,
        own: None,
        from: None,
    })
}

pub(super) fn message_v4(p: v4::Publish) -> Option<Message> {
    let topic = TopicName::new(std::str::from_utf8(&p.topic).ok()?).ok()?;
    let qos = Qos::try_from(p.qos as u8).ok()?;
    Some(Message {
        topic,
        payload: p.payload,
        qos,
        retain: p.retain,
        properties: None,
        class: Class::Normal,
        own: None,
        from: None,
    })
}

pub(super) fn properties_v5(p: &Properties) -> v5::PublishProperties {
    v5::PublishProperties {
        payload_format_indicator: p.payload_format,
        message_expiry_interval: p.expiry,
        response_topic: p.response_topic.as_ref().map(ToString::to_string),
        correlation_data: p.correlation.clone(),
        user_properties: p.user.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
        content_type: p.content_type.as_ref().map(ToString::to_string),
        ..Default::default()
    }
}

pub(super) const fn qos_v5(qos: Qos) -> v5::QoS {
    match qos {
        Qos::AtMostOnce => v5::QoS::AtMostOnce,
        Qos::AtLeastOnce => v5::QoS::AtLeastOnce,
        Qos::ExactlyOnce => v5::QoS::ExactlyOnce,
    }
}

pub(super) const fn qos_v4(qos: Qos) -> v4::QoS {
    match qos {
        Qos::AtMostOnce => v4::QoS::AtMostOnce,
        Qos::AtLeastOnce => v4::QoS::AtLeastOnce,
        Qos::ExactlyOnce => v4::QoS::ExactlyOnce,
    }
}
