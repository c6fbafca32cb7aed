// node_client.js URL OPTIONS: the conversation in Node; prints what came of it as JSON.
const fs = require("node:fs");
const mqtt = require("mqtt");
const { converse } = require("./conversation.js");

const [url, text] = process.argv.slice(2);
const options = JSON.parse(text);
if (options.ca) options.ca = fs.readFileSync(options.ca);
converse(mqtt, url, options).then(
  (result) => console.log(JSON.stringify(result)),
  (error) => {
    console.log(JSON.stringify({ error: String(error && error.message ? error.message : error) }));
    process.exitCode = 1;
  },
);
