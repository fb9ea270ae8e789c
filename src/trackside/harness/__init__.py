"""The harness: runs agents and announces what happens to them. It knows no storage, no web, no metrics.

Inside, imports go downwards only: `manager`, `embedded` → `worker`, `adapters` → `context` → `emitter`, `journal`,
`memory` → `dispatch` → `buffered` → `timelimit` → `observer`, `ports` → `lifecycle` → `payload` → `types` → `errors`.
"""
