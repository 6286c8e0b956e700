// Uses the types that openapi-typescript generated, as a program would: test_generated_clients.py compiles it.

import type { components, operations } from "./taskmill";

type SubmitBody = operations["submit_task"]["requestBody"]["content"]["application/json"];
type Task = components["schemas"]["Task"];
type Problem = operations["cancel_task"]["responses"][409]["content"]["application/problem+json"];

export const email: SubmitBody = {
  kind: "email.send",
  params: { to: ["ada@example.com"], reply_to: "support@example.com", text: "Good morning." },
  metadata: { customer: "Ada" },
};

export const images: SubmitBody = {
  kind: "files.make_images",
  params: { file_id: "0199c0de-0000-7000-8000-000000000001", variants: [{ name: "small", width: 320, format: "webp" }] },
};

// @ts-expect-error The params of another kind are refused.
export const wrong: SubmitBody = { kind: "files.inspect", params: { to: ["ada@example.com"] } };

export function describe(task: Task, problem: Problem): string {
  const rows: unknown = task.result?.["rows"];
  const last = task.error?.title ?? problem.errors?.map((error) => error.pointer).join(", ");
  return `${task.status} ${task.progress?.percent ?? 0} ${String(rows)} ${last} ${task.owner?.name ?? ""}`;
}
