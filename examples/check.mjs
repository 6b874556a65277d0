// Asks Weir over NATS:
//
//     npm install && node check.mjs nats://127.0.0.1:4222
import { connect } from "@nats-io/transport-node";

const check = "weir.check.0.acme.node-1"; // shard, tenant, a name of this process alone
const decisions = "weir.decision.*.acme.node-1";
const nc = await connect({ servers: process.argv[2] });

// Every decision about a request of node-1 comes here.
nc.subscribe(decisions, {
  callback: (_, m) => {
    const d = m.json();
    console.log(`${d.id}: ${d.verdict}, ${d.remaining} left`);
  },
});

// Publish an event, and go on: its decision is told apart by its id.
nc.publish(check, JSON.stringify({
  id: crypto.randomUUID(), user: "42", method: "GET", path: "/orders",
}));

// Or wait for the decision, but not for long: without one the request passes.
async function decide(event) {
  try {
    const reply = await nc.request(check, JSON.stringify(event), { timeout: 100 });
    if (reply.headers?.has("Nats-Service-Error")) {
      throw new Error(reply.json().detail); // Weir says what is wrong
    }
    return reply.json();
  } catch (err) {
    console.log(`no decision: ${err.message}`);
    return { verdict: "allow", reason: "timeout" };
  }
}

console.log((await decide({ user: "42", method: "GET", path: "/orders" })).verdict);
console.log((await decide({ user: "42", method: "GET", cost: -1 })).verdict);
await nc.drain();
