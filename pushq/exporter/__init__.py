"""What pushq shows of itself: /metrics, health, logs. It subscribes and reads; nothing waits for it."""
