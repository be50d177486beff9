"""What an API does, by kind of entity: coerce the arguments, do it, build the entity. Handles come above."""
