//! Volumes, pods and secrets that are there already, are replaced, or have to go.

use super::*;

#[tokio::test]
async fn a_volume_that_was_replaced_is_not_deleted() {
    let mut world = World::new(json!({})).await;
    world.worker.turn().await;
    let path = format!("{CLAIMS}/orders-3");
    let mut other = world.api.object(&path);
    other["metadata"]["uid"] = json!("another");
    world.api.store(&path, other);
    world.worker.delete_instance(&node("orders-3"), None).await;
    assert!(world.api.object(&path)["metadata"]["deletionTimestamp"].is_null());
    assert!(world.api.object(&path)["metadata"]["annotations"][DELETING].is_null());
}

#[tokio::test]
async fn an_instance_with_other_data_than_meant_is_not_deleted() {
    let mut world = World::new(json!({})).await;
    world.worker.turn().await;
    world.report("orders-3", empty_node("orders-3", 3));
    world.worker.delete_instance(&node("orders-3"), Some(Incarnation(8))).await;
    assert!(world.api.object(&format!("{CLAIMS}/orders-3"))["metadata"]["deletionTimestamp"].is_null());
}

/// Before what can't be taken back the status is written once more: it must still be the one that was decided on.
#[tokio::test]
async fn nothing_is_deleted_on_an_older_status() {
    let mut world = World::new(json!({})).await;
    world.worker.turn().await;
    let mut theirs = world.api.object(RESOURCE);
    theirs["status"]["epoch"] = json!(41);
    world.api.store(RESOURCE, theirs);
    world.worker.delete_instance(&node("orders-3"), None).await;
    assert!(world.api.object(&format!("{CLAIMS}/orders-3"))["metadata"]["deletionTimestamp"].is_null());
    world.worker.delete_instance(&node("orders-3"), None).await;
    assert!(!world.api.object(&format!("{CLAIMS}/orders-3"))["metadata"]["deletionTimestamp"].is_null());
    assert!(!world.api.object(&format!("{PODS}/orders-3"))["metadata"]["deletionTimestamp"].is_null());
    world.worker.observe_objects();
    assert_eq!(world.worker.instances[&node("orders-3")].observed.lifecycle, Lifecycle::Deleting);
}

#[tokio::test]
async fn a_volume_of_another_cluster_is_left_alone() {
    let mut world = World::new(json!({"instances": 1})).await;
    let labels = json!({"app.kubernetes.io/managed-by": "rdb-operator", "replicateddb.io/cluster": "ord"});
    let path = format!("{CLAIMS}/orders-1");
    let claim = json!({"metadata": {"name": "orders-1", "namespace": "shop", "uid": "x", "labels": labels}});
    let stored = world.api.store(&path, claim);
    world.worker.turn().await;
    assert_eq!(world.api.object(&path), stored);
    assert!(world.api.object(&format!("{PODS}/orders-1")).is_null());
    assert!(world.worker.told["orders-1"].contains("belongs to the cluster ord"), "{:?}", world.worker.told);
}

#[tokio::test]
async fn a_secret_without_its_key_is_told_and_not_touched() {
    let mut world = World::new(json!({"instances": 1})).await;
    let path = "/api/v1/namespaces/shop/secrets/orders-admin";
    let stored = world.api.store(path, json!({"metadata": {"name": "orders-admin", "namespace": "shop"}, "data": {}}));
    world.worker.turn().await;
    assert_eq!(world.api.object(path), stored);
    assert!(world.worker.told["Admin"].contains("has no text under the key token"), "{:?}", world.worker.told);
}

/// A pod that is gone proves nothing; what its last report said of its process does.
#[tokio::test]
async fn a_processs_end_is_learnt_from_the_pods_last_report() {
    let mut world = World::new(json!({})).await;
    world.worker.turn().await;
    let boot = Incarnation(0xab);
    let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "orders-1", "namespace": "shop"}, "status": {
        "containerStatuses": [{"name": "node", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": {"exitCode": 137, "message": format!("{boot}\n")}}}]}}))
    .unwrap();
    world.worker.context.caches.pods.remove(&world.worker.key.clone(), "orders-1");
    world.worker.observe_objects();
    assert!(world.worker.instances[&node("orders-1")].observed.exited_boots.is_empty());
    world.worker.mailbox.push(Input::Pod(Arc::new(pod)));
    let pending = world.worker.mailbox.take();
    world.worker.take(pending);
    assert!(world.worker.instances[&node("orders-1")].observed.exited_boots.contains(&boot));
}

/// Its process serves on for seconds, and must not pass for the next one.
#[tokio::test]
async fn a_pod_that_is_ending_is_as_outdated_as_before() {
    let mut world = World::new(json!({})).await;
    world.worker.turn().await;
    let path = format!("{PODS}/orders-2");
    let mut pod = world.api.object(&path);
    pod["metadata"]["annotations"]["replicateddb.io/template"] = json!("image=another");
    let seen = |world: &mut World, pod: &Value| {
        let pod: Pod = serde_json::from_value(world.api.store(&path, pod.clone())).unwrap();
        let key = world.worker.key.clone();
        world.worker.context.caches.pods.put(&key, Arc::new(pod));
        world.worker.observe_objects();
        let observed = &world.worker.instances[&node("orders-2")].observed;
        (observed.outdated.is_some(), observed.ending)
    };
    assert_eq!(seen(&mut world, &pod), (true, false));
    pod["metadata"]["deletionTimestamp"] = json!("2026-11-01T00:00:00Z");
    assert_eq!(seen(&mut world, &pod), (true, true));
}

#[tokio::test]
async fn a_deleted_pod_is_made_again_on_its_volume() {
    let mut world = World::new(json!({})).await;
    world.worker.turn().await;
    let key = world.worker.key.clone();
    world.worker.context.caches.pods.remove(&key, "orders-2");
    world.api.state().objects.remove(&format!("{PODS}/orders-2"));
    world.api.writes();
    world.worker.mailbox.put(|pending| pending.objects = true);
    let pending = world.worker.mailbox.take();
    world.worker.take(pending);
    world.worker.turn().await;
    assert_eq!(objects(world.api.writes()), [format!("POST {PODS}/orders-2")]);
}

#[tokio::test]
async fn the_end_of_a_cluster_keeps_its_volumes_unless_told_otherwise() {
    for (reclaim, deleted) in [("Retain", false), ("Delete", true)] {
        let mut world = World::new(json!({"reclaim": reclaim})).await;
        world.worker.turn().await;
        let mut object = world.api.object(RESOURCE);
        object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        world.api.store(RESOURCE, object);
        world.notice();
        world.worker.turn().await;
        assert!(!world.api.object(RESOURCE)["metadata"]["finalizers"].to_string().eq("[]"), "pods go first");
        let key = world.worker.key.clone();
        for name in ["orders-1", "orders-2", "orders-3"] {
            assert!(!world.api.object(&format!("{PODS}/{name}"))["metadata"]["deletionTimestamp"].is_null());
            world.worker.context.caches.pods.remove(&key, name);
        }
        world.worker.turn().await;
        let claim: PersistentVolumeClaim =
            serde_json::from_value(world.api.object(&format!("{CLAIMS}/orders-1"))).unwrap();
        assert_eq!(claim.metadata.deletion_timestamp.is_some(), deleted, "{reclaim}");
        assert_eq!(world.api.object(RESOURCE)["metadata"]["finalizers"], json!([]));
    }
}
