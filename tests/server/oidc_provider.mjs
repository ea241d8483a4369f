// A provider of OpenID Connect that insists on PKCE: npm's oidc-provider, with one public client and two people.
// Call: node oidc_provider.mjs PORT REDIRECT_URI, in a folder where oidc-provider is installed.

import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [port, redirect] = process.argv.slice(2);
const found = createRequire(`${process.cwd()}/`).resolve("oidc-provider");
const { default: Provider } = await import(pathToFileURL(found).href);
const issuer = `http://localhost:${port}`;
const PEOPLE = {
  "sub-grace": { preferred_username: "grace", groups: ["staff", "haem-readers"], department: "17" },
  "sub-guest": { preferred_username: "guest", groups: ["staff"], department: "17" },
};

const provider = new Provider(issuer, {
  clients: [{ client_id: "room", redirect_uris: [redirect], response_types: ["code"], grant_types: ["authorization_code"], token_endpoint_auth_method: "none" }],
  pkce: { required: () => true },
  claims: { openid: ["sub"], profile: ["preferred_username", "groups", "department"] },
  findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id, ...PEOPLE[id] }) }),
  features: { devInteractions: { enabled: true } },
  cookies: { keys: ["for this test alone"] },
});
provider.listen(Number(port), "127.0.0.1", () => console.log("ready"));
