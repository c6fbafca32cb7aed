// What two MQTT.js clients say to each other through the broker, the same in Node and on a page. The test in
// tests/e2e/test_mqttjs.py looks at what each heard.

const settled = (client, event) =>
  new Promise((resolve, reject) => {
    client.once(event, resolve);
    client.once("error", reject);
    // A browser does not say why a handshake was refused, only that it is over.
    client.once("close", () => reject(new Error("closed without a word")));
  });

async function converse(mqtt, url, options) {
  const heard = [];
  const hello = { reconnectPeriod: 0, connectTimeout: 20000, ...options };
  const listener = mqtt.connect(url, { ...hello, clientId: options.name + "-listener", clean: true });
  await settled(listener, "connect");
  const complete = new Promise((resolve, reject) => {
    listener.on("error", reject);
    listener.on("message", (topic, payload, packet) => {
      const text = payload.length > 100 ? String(payload.length) : payload.toString();
      const properties = packet.properties || {};
      heard.push({
        topic,
        text,
        qos: packet.qos,
        retain: packet.retain,
        user: properties.userProperties ? { ...properties.userProperties } : null,
        response: properties.responseTopic || null,
      });
      if (topic.endsWith("/end")) resolve();
    });
  });
  await listener.subscribeAsync(options.name + "/#", { qos: 2 });

  const will = { topic: options.name + "/will", payload: "gone", qos: 1, retain: false };
  const speaker = mqtt.connect(url, { ...hello, clientId: options.name + "-speaker", will });
  await settled(speaker, "connect");
  const v5 = options.protocolVersion === 5;
  const properties = v5 ? { userProperties: { a: "1", ä: "ö" }, responseTopic: "answers" } : undefined;
  for (const qos of [0, 1, 2]) {
    await speaker.publishAsync(options.name + "/q" + qos, "value " + qos, { qos, properties });
  }
  // More than one frame of a browser, and more than the broker writes in one message.
  await speaker.publishAsync(options.name + "/large", "x".repeat(200000), { qos: 1 });
  await speaker.publishAsync(options.name + "/kept", "kept", { qos: 1, retain: true });
  // Without a DISCONNECT: the will has to come.
  const dead = new Promise((resolve) => speaker.once("close", resolve));
  speaker.stream.destroy();
  await dead;

  const last = mqtt.connect(url, { ...hello, clientId: options.name + "-last" });
  await settled(last, "connect");
  const found = new Promise((resolve) => last.once("message", (topic, payload, packet) => resolve(packet.retain)));
  await last.subscribeAsync(options.name + "/kept", { qos: 1 });
  const retained = await found;
  await last.publishAsync(options.name + "/end", "", { qos: 2 });
  await complete;
  await last.endAsync();
  await listener.endAsync();
  return { heard, retained };
}

if (typeof module !== "undefined") module.exports = { converse };
