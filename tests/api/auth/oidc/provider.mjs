// Runs npm's oidc-provider on a free port of the loopback, and writes its issuer: `node provider.mjs MODULE ACCOUNTS REDIRECT_URI`.
//
// ACCOUNTS is a JSON file with the claims of each account by its login, read at each sign-in. `POST /test/rotate` replaces the keys.

import { generateKeyPairSync } from "node:crypto";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";

const [module, accounts, redirectUri] = process.argv.slice(2);
const { Provider } = await import(module);
const clients = [
  {
    client_id: "taskmill-test",
    client_secret: "a secret of the tests only",
    redirect_uris: [redirectUri],
    grant_types: ["authorization_code"],
    response_types: ["code"],
  },
];
let generation = 0;
let handle;

function start() {
  generation += 1;
  const { privateKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
  const key = { ...privateKey.export({ format: "jwk" }), kid: `key-${generation}`, use: "sig", alg: "RS256" };
  const provider = new Provider(issuer, {
    clients,
    jwks: { keys: [key] },
    cookies: { keys: ["a key of the tests only"] },
    claims: { openid: ["sub"], email: ["email", "email_verified"], profile: ["name", "groups"] },
    pkce: { required: () => true },
    findAccount: (_, id) => ({
      accountId: id,
      claims: () => ({ sub: id, ...JSON.parse(readFileSync(accounts, "utf8"))[id] }),
    }),
  });
  handle = provider.callback();
}

const server = createServer((request, response) => {
  if (request.method === "POST" && request.url === "/test/rotate") {
    start();
    response.writeHead(204).end();
    return;
  }
  handle(request, response);
});
let issuer;
server.listen(0, "127.0.0.1", () => {
  issuer = `http://127.0.0.1:${server.address().port}`;
  start();
  console.log(`issuer ${issuer}`);
});
